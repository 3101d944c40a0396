"""What has to be seen on a GPU: each method in a stream, in three precisions, with options that make it faster, and a
prediction: ``make test-gpu``.
"""

import json

import nibabel as nib
import pytest
import torch

from lit_continual.cli import main
from lit_continual.modules import Segmenter

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


def learnt(run, name="1_box"):
    return torch.load(run / f"experiences/{name}/model.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("option", ["ChannelsLast", "CompiledNetwork", "both"])
def test_options_that_make_a_fit_faster_learn_the_same(stream, tmp_path, option, dims):
    """By one line of YAML each; checkpoints have the same names, and their weights lie as ever."""
    options = ["ChannelsLast", "CompiledNetwork"] if option == "both" else [option]
    size = [f"--model.network.init_args.spatial_dims={dims}", f"--data.patch_size={[16, 16, 4][:dims]}"]
    for name, more in (("plain", []), ("fast", [{"class_path": one} for one in options])):
        config = stream(*more, *METHODS["distillation, online"])
        main(["fit", "--config", config, *GPU, *size, f"--trainer.default_root_dir={tmp_path / name}"])
    plain, fast = learnt(tmp_path / "plain"), learnt(tmp_path / "fast")
    assert list(fast) == list(plain)
    assert all(value.is_contiguous() for value in fast.values())
    torch.testing.assert_close(fast, plain, rtol=0.1, atol=0.05)  # Adam makes whole steps of rounding errors


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_with_the_channels_last_in_16_bits(stream, tmp_path, method, precision):
    config = stream({"class_path": "ChannelsLast"}, *METHODS[method])
    main(["fit", "--config", config, *GPU, f"--trainer.precision={precision}"])
    assert all(value.isfinite().all() for value in learnt(tmp_path / "run").values())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_through_pinned_memory(stream, tmp_path, monkeypatch, workers):
    """From memory and from disk, with exemplars among them: the same bits as without."""
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    pinned, step = [], Segmenter.on_before_batch_transfer

    def seen(module, batch, index):
        pinned.append(batch["image"].is_pinned())
        return step(module, batch, index)

    monkeypatch.setattr(Segmenter, "on_before_batch_transfer", seen)
    memory, found = {"policy": "Random", "budget": {"samples": 2}}, {}
    for name, more in (
        ("plain", ["--data.loading.pin_memory=false"]),
        ("pinned", [f"--data.num_workers={workers}"]),
        ("disk", [f"--data.num_workers={workers}", "--data.cache=disk"]),
    ):
        pinned.clear()
        root = f"--trainer.default_root_dir={tmp_path / name}"
        main(["fit", "--config", stream(*METHODS["distillation, cached"], memory=memory), *GPU, *more, root])
        assert any(pinned) == (name != "plain")
        found[name] = dice(tmp_path / name)
    assert found["pinned"] == pytest.approx(found["plain"], abs=0.05)
    assert found["disk"] == pytest.approx(found["plain"], abs=0.05)


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
