import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lit_continual.methods.bases.weights import match_names, read_weights
from lit_continual.methods.l2sp.anchor import read_anchor
from lit_continual.methods.pretrained.load_pretrained import load_pretrained
from lit_continual.runs.checkpoints.seal import seal


def test_files_are_read_without_running_code(tmp_path, monkeypatch):
    weights = {"a.weight": torch.ones(2)}
    torch.save(weights, tmp_path / "plain.pth")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "lightning.ckpt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    monkeypatch.setenv("PRETRAINED_FOLDER", str(tmp_path))
    assert_close(read_weights("${PRETRAINED_FOLDER}/plain.pth"), weights)
    assert_close(read_weights(tmp_path / "plain.pth"), weights)
    assert_close(read_weights(tmp_path / "lightning.ckpt"), weights)
    for name, message in {
        "module.pth": "cannot be read as a checkpoint of tensors",
        "text.pth": "cannot be read as a checkpoint of tensors",
        "empty.pth": "holds no tensors by name",
    }.items():
        with pytest.raises(ValueError, match=rf"{name} {message}"):
            read_weights(tmp_path / name)
    with pytest.raises(ValueError, match=r"no checkpoint at .*missing\.pth"):
        read_weights(tmp_path / "missing.pth")


def test_the_prefixes_that_match_most_names_win():
    wanted = ["net.encoder.a.weight", "net.encoder.a.bias", "net.decoder.a.weight"]
    available = ["decoder.a.weight", "encoder.a.weight", "encoder.a.bias"]
    assert match_names(wanted, available) == {name: name.removeprefix("net.") for name in wanted}
    assert match_names(["encoder.a.weight"], ["other.b.weight"]) == {}


def test_weights_that_were_changed_since_they_were_written_are_refused(tmp_path):
    path = tmp_path / "model.ckpt"
    content = {"state_dict": {"a.weight": torch.ones(2)}, "hyper_parameters": {}}
    seal(content, nn.Linear)
    torch.save(content, path)
    assert_close(read_weights(path), content["state_dict"])
    content["state_dict"]["a.weight"][0] = 2.0
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"model.ckpt is damaged: its weights or class names are not those"):
        read_weights(path)


UNFIT = {
    "nan": (lambda value: value * torch.nan, "is nan or infinite"),
    "infinite": (lambda value: value / 0, "is nan or infinite"),
    "sparse": (lambda value: value.to_sparse(), "something else than tensors by name"),
    "quantised": (lambda value: torch.quantize_per_tensor(value, 1.0, 0, torch.qint8), "something else than tensors"),
    "of no device": (lambda value: value.to("meta"), "something else than tensors by name"),
}


@pytest.mark.filterwarnings("ignore:.*torch.quantiz", "ignore:.*TypedStorage")
@pytest.mark.parametrize("kind", UNFIT)
def test_weights_that_no_training_can_begin_with_are_named(tmp_path, kind):
    change, message = UNFIT[kind]
    module, path = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), str(tmp_path / "a.ckpt")
    torch.save({"0.weight": change(torch.ones(2, 2)), "other": change(torch.ones(3)), 5: torch.ones(1)}, path)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for take in (lambda: load_pretrained(module, path), lambda: read_anchor(path, {"0.weight": module[0].weight})):
        with pytest.raises(ValueError, match=rf"a.ckpt.*{message}|in .*a.ckpt {message}"):
            take()
    assert_close(dict(module.state_dict()), before)
    torch.save({"0.weight": torch.ones(2, 2), "mask": torch.full((3,), -torch.inf), 5: torch.ones(1)}, path)
    load_pretrained(module, path)  # what nobody asks for may be anything
    assert_close(read_anchor(path, {"0.weight": module[0].weight})["0.weight"], torch.ones(2, 2))
