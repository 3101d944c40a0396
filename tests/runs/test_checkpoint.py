import zipfile

import numpy as np
import pytest
import torch

from lit_continual.methods.bases.weights import read_weights
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint


def test_checkpoints_of_tensors_and_plain_values_only(tmp_path):
    content = {"w": torch.arange(3), "plain": [1, "a", {"b": (None, 2.5)}]}
    torch.save(content, tmp_path / "a.ckpt")
    assert load_checkpoint(tmp_path / "a.ckpt")["plain"] == content["plain"]
    torch.save({"x": np.random.default_rng(0)}, tmp_path / "code.ckpt")
    with pytest.raises(ValueError, match=r"code.ckpt cannot be read as a checkpoint of tensors and plain values"):
        load_checkpoint(tmp_path / "code.ckpt")


def test_bad_checkpoints(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.ckpt")
    whole = (tmp_path / "a.ckpt").read_bytes()
    for part in (b"", whole[:100], whole[:-30], b"text"):
        (tmp_path / "a.ckpt").write_bytes(part)
        with pytest.raises(ValueError, match=r"a.ckpt cannot be read as a checkpoint.*use another") as caught:
            load_checkpoint(tmp_path / "a.ckpt")
        assert "\n" not in str(caught.value)
    torch.save([1, 2], tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt holds a list, not a checkpoint. Use another file"):
        load_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"There is no checkpoint at .*none.ckpt. Check the path"):
        load_checkpoint(tmp_path / "none.ckpt")


def doubled():
    value = [1]
    for _ in range(60):
        value = [value, value]
    return value


def holding_itself():
    value = {}
    value["a"] = value
    return value


BOMBS = {
    "values that stand for one another": lambda: {"hyper_parameters": doubled()},
    "a mapping that holds itself": lambda: {"hyper_parameters": holding_itself()},
    "a tensor of one number, expanded": lambda: {"state_dict": {"a": torch.zeros(1).expand(10**12)}},
    "a tensor that overlaps itself": lambda: {"a": [torch.zeros(2).as_strided((10**6, 10**6), (0, 0))]},
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_unfolds_to_more_than_a_file_holds_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("lit_continual.runs.checkpoints.load_checkpoint.MOST", 10_000)
    torch.save(BOMBS[kind](), tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").stat().st_size < 10_000
    for read in (load_checkpoint, Checkpoint, read_weights):
        with pytest.raises(ValueError, match=r"a.ckpt cannot be read as a checkpoint.*\(it unfolds to more than"):
            read(tmp_path / "a.ckpt")


def test_a_checkpoint_that_was_packed_is_not_unpacked(tmp_path):
    torch.save({"a": torch.zeros(10**5)}, tmp_path / "whole.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "whole.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in whole.infolist():
            packed.writestr(part.filename, whole.read(part))
    with pytest.raises(ValueError, match=r"a.ckpt cannot be read as a checkpoint.*\(it unpacks to more than it is\)"):
        load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", ["a.ts", "a.ckpt"])
@pytest.mark.parametrize("what", ["TorchScript", "an exported program"])
def test_a_program_where_a_checkpoint_is_needed_is_named(tmp_path, name, what):
    network = torch.nn.Linear(2, 2)
    if what == "TorchScript":
        torch.jit.script(network).save(tmp_path / name)
    else:
        torch.export.save(torch.export.export(network, (torch.zeros(1, 2),)), tmp_path / "a.pt2")
        (tmp_path / "a.pt2").replace(tmp_path / name)
    for read in (load_checkpoint, Checkpoint, read_weights):
        with pytest.raises(
            ValueError, match=rf"{name} cannot be read.*\(it is {what}, and what that was made"
        ) as caught:
            read(tmp_path / name)
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{}", b"\x1f\x8b\x08", b"\x89HDF", b"hello"])
def test_nobody_is_told_to_read_a_file_with_the_code_in_it(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.ckpt cannot be read as a checkpoint") as caught:
        load_checkpoint(tmp_path / "a.ckpt")
    assert "set to `False`" not in str(caught.value)
