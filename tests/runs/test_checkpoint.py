import numpy as np
import pytest
import torch

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
