"""What has to be seen on a GPU: each method in a stream, in three precisions, and a prediction: ``make test-gpu``."""

import json

import nibabel as nib
import pytest
import torch

from lit_continual.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),  # Lightning's advice on loaders and precision
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
EPISODES = {"episodes": {"order": "active", "tasks": 2, "shots": 2}}
METHODS = {
    "fine-tuning": [],
    "distillation, online": [{"class_path": "Distillation", "init_args": {"dice": 1.0}}],
    "distillation, cached": [{"class_path": "Distillation", "init_args": {"targets": "cached"}}],
    "TGD": [{"class_path": "TargetedGradientDescent", "init_args": {"share": 0.5}}],
    "L2-SP": [{"class_path": "L2SP", "init_args": {"parameters": "body.*.weight", "anchor": "last_fit"}}],
    "EWC": [{"class_path": "EWC", "init_args": {"samples": 4}}],
    "MetaTune": [{"class_path": "MetaTune", "init_args": {**EPISODES, "strategy": "FOMAML", "after": 1}}],
}
GPU = ["--trainer.accelerator=gpu", "--trainer.devices=1"]


def dice(folder):
    return [v for row in json.loads((folder / "matrix.json").read_text())["dice"] for v in row if v is not None]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_stream_runs(stream, tmp_path, method, precision):
    main(["fit", "--config", stream(*METHODS[method]), *GPU, f"--trainer.precision={precision}"])
    assert len(dice(tmp_path / "run")) == 3
    weights = torch.load(tmp_path / "run/experiences/1_box/model.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    assert json.loads((tmp_path / "run/run.json").read_text())["device"].startswith("cuda")


@pytest.mark.parametrize("policy", ["Random", "ClassBalancedReservoir"])
def test_a_memory_is_filled_and_replayed(stream, tmp_path, policy):
    memory = {"policy": policy, "budget": {"samples": 2}}
    main(["fit", "--config", stream(*METHODS["distillation, online"], memory=memory), *GPU])
    assert len(list((tmp_path / "run/memory").rglob("*.npz"))) == 4


def test_a_gpu_learns_and_predicts_what_a_cpu_does(stream, shapes, tmp_path):
    for name, options in (("gpu", GPU), ("cpu", [])):
        run = tmp_path / name
        main(
            ["fit", "--config", stream(*METHODS["distillation, online"]), *options, f"--trainer.default_root_dir={run}"]
        )
    assert dice(tmp_path / "gpu") == pytest.approx(dice(tmp_path / "cpu"), abs=0.05)
    model, images = str(tmp_path / "gpu/experiences/1_box/model.ckpt"), str(shapes / "images")
    for accelerator in ("gpu", "cpu"):
        output = f"--output={tmp_path / 'maps' / accelerator}"
        main(["predict", model, images, output, f"--accelerator={accelerator}"])
    for path in (tmp_path / "maps/gpu").glob("*.nii.gz"):
        maps = [nib.load(tmp_path / "maps" / where / path.name).get_fdata() for where in ("gpu", "cpu")]
        assert (maps[0] == maps[1]).mean() > 0.999
