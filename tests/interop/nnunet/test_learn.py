"""A model of nnU-Net learns a new class from new data."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.cli import main
from lit_continual.data import Split
from lit_continual.modules import NNUNetSegmenter
from lit_continual.runs.checkpoint import Checkpoint
from lit_continual import NNUNetDataModule
from tests.interop.nnunet.conftest import OBLIQUE, quiet, write_images


@pytest.fixture
def raw(tmp_path):
    """New cases in nnU-Net's layout, of which only the ball is annotated, as ``cone``."""
    folder = tmp_path / "Dataset002_New"
    write_images(folder / "imagesTr", count=5)
    (folder / "labelsTr").mkdir()
    x, y, z = np.indices((24, 22, 9))
    ball = (x - 12) ** 2 + (y - 11) ** 2 + 4 * (z - 4) ** 2 < 30
    for case in range(5):
        nib.save(nib.Nifti1Image(ball.astype(np.uint8), OBLIQUE), folder / f"labelsTr/case_{case}.nii.gz")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "cone": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**described, "numTraining": 5}))
    return folder


def config(raw, tmp_path, *callbacks, **data):
    content = {
        "stream": {"experiences": [{"name": "cone", "classes": {"cone": 1}}]},
        "model": {"class_path": "NNUNetSegmenter", "init_args": {"optimizer": "torch.optim.SGD"}},
        "data": {
            "class_path": "NNUNetDataModule",
            "init_args": {"dataset": str(raw), "batch_size": 2, "split": {"fractions": [0.6, 0.2, 0.2]}, **data},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "callbacks": list(callbacks), "log_every_n_steps": 1},
    }
    content["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}
    content["trainer"] |= {"default_root_dir": str(tmp_path / "run"), "enable_progress_bar": False}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("options", [{}, {"dims": 2}], ids=["3d", "2d"])
def test_a_stream_extends_a_folder(toy, raw, tmp_path, options, capsys):
    folder = toy(**options)
    distillation = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}
    main(["fit", "--config", config(raw, tmp_path, distillation), f"--stream.start={folder}"])
    before = Checkpoint(folder).module(NNUNetSegmenter)
    path = tmp_path / "run/experiences/0_cone/model.ckpt"
    after = Checkpoint(path).module(NNUNetSegmenter)
    assert after.classes == ["ball", "box", "cone"]
    assert after.trained == before.trained
    old, new = before.state_dict(), after.state_dict()
    auxiliary = [name for name in old if "seg_layers" in name]
    assert auxiliary
    assert all(torch.equal(old[name], new[name]) for name in auxiliary)
    moved = [name for name in old if not torch.equal(old[name], new[name])]
    assert len(moved) > len(old) / 2
    main(["test", "--config", config(raw, tmp_path), f"--ckpt_path={path}"])
    main(["predict", str(path), str(raw / "imagesTr"), f"--output={tmp_path / 'out'}"])
    main(["export", str(path), "--format=nnunet", f"--output={tmp_path / 'new'}", f"--images={raw / 'imagesTr'}"])
    assert "in 0 the label of nnU-Net is another than here (5 images)" in capsys.readouterr().out
    assert Checkpoint(tmp_path / "new").module().classes == ["ball", "box", "cone"]
