"""What has to be seen on a GPU: each method in a stream, in three precisions, with options that make it faster, and a
prediction: ``make test-gpu``.
"""

import json
from pathlib import Path

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
    "distillation, old patches": [
        {"class_path": "Distillation", "init_args": {"dice": 0.5, "exclusive": True, "old_patches": 0.5}}
    ],
    "TGD": [{"class_path": "TargetedGradientDescent", "init_args": {"share": 0.5}}],
    "TGD, Fisher": [
        {"class_path": "TargetedGradientDescent", "init_args": {"share": 0.5, "score": "fisher", "after": 1}}
    ],
    "frozen body": [{"class_path": "TrainOnly", "init_args": {"after": 1, "hold_statistics": True}}],
    "L2-SP": [{"class_path": "L2SP", "init_args": {"parameters": "body.*.weight", "anchor": "last_fit"}}],
    "EWC": [{"class_path": "EWC", "init_args": {"samples": 4}}],
    "MAS": [{"class_path": "MAS", "init_args": {"samples": 4}}],
    "SI": [{"class_path": "SI"}],
    "RWalk": [{"class_path": "RWalk"}],
    "ILT": [{"class_path": "ILT"}],
    "MiB": [{"class_path": "MiB"}],
    "PLOP": [{"class_path": "PLOP"}],
    "LoRA": [{"class_path": "LoRA", "init_args": {"rank": 2, "after": 1}}],
    "weight fusion": [{"class_path": "WeightFusion", "init_args": {"share": 0.5}}],
    "A-GEM": [{"class_path": "AGEM"}],
    "DER++": [{"class_path": "DarkExperienceReplay", "init_args": {"alpha": 0.5, "beta": 1.0}}],
    "MetaTune": [{"class_path": "MetaTune", "init_args": {**EPISODES, "strategy": "FOMAML", "after": 1}}],
    "MetaTune, MAML": [{"class_path": "MetaTune", "init_args": {**EPISODES, "strategy": "MAML", "after": 1}}],
}
MEMORY = {"A-GEM", "DER++"}  # which read exemplars
ONE_SOFTMAX = {"MiB", "PLOP"}
GPU = ["--trainer.accelerator=gpu", "--trainer.devices=1"]


def dice(folder):
    return [v for row in json.loads((folder / "matrix.json").read_text())["dice"] for v in row if v is not None]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_stream_runs(stream, tmp_path, method, precision):
    memory = {"memory": {"policy": "Random", "budget": {"samples": 2}, "batches": "mixed"}} if method in MEMORY else {}
    heads = ["--model.init_args.heads=shared"] if method in ONE_SOFTMAX else []
    main(["fit", "--config", stream(*METHODS[method], **memory), *GPU, *heads, f"--trainer.precision={precision}"])
    assert len(dice(tmp_path / "run")) == 3
    weights = torch.load(tmp_path / "run/experiences/1_box/model.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    assert json.loads((tmp_path / "run/run.json").read_text())["device"].startswith("cuda")


POLICIES = {
    "Random": [],
    "ClassBalancedReservoir": [],
    "Herding": ["--stream.memory.layer=body"],
    "CertaintyCoverage": ["--stream.memory.layer=body", "--model.init_args.network.init_args.dropout=0.2"],
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_memory_is_filled_and_replayed(stream, tmp_path, policy):
    memory = {"policy": policy, "budget": {"samples": 2}}
    main(["fit", "--config", stream(*METHODS["distillation, online"], memory=memory), *GPU, *POLICIES[policy]])
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
@pytest.mark.parametrize("method", [name for name in METHODS if name not in MEMORY | ONE_SOFTMAX])
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


@pytest.mark.parametrize(
    "options", [["--stitch_device=cpu"], ["--stitch_dtype=float16"], ["--precision=16-mixed"]], ids=str
)
def test_each_way_to_save_memory_predicts_the_same(stream, shapes, tmp_path, options):
    main(["fit", "--config", stream(*METHODS["distillation, online"]), *GPU])
    model, images = str(tmp_path / "run/experiences/1_box/model.ckpt"), str(shapes / "images")
    for name, more in (("plain", []), ("saving", options)):
        main(["predict", model, images, f"--output={tmp_path / name}", "--accelerator=gpu", *more])
    for path in (tmp_path / "plain").glob("*.nii.gz"):
        maps = [nib.load(tmp_path / name / path.name).get_fdata() for name in ("plain", "saving")]
        assert (maps[0] == maps[1]).mean() > 0.99


def test_a_stopped_stream_goes_on_where_it_was(stream, tmp_path, monkeypatch):
    """By the same weights, but for what kernels of a GPU add in another order."""
    config = stream(*METHODS["distillation, online"])
    main(["fit", "--config", config, *GPU])
    whole = learnt(tmp_path / "run")
    stopped, seen, step = f"--trainer.default_root_dir={tmp_path / 'stopped'}", [], Segmenter.training_step

    def failing(module, batch, index):
        seen.append(index)
        if len(seen) == 5:  # in the second epoch of the second experience
            raise RuntimeError("cut")
        return step(module, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "training_step", failing)
        with pytest.raises(RuntimeError, match="cut"):
            main(["fit", "--config", config, *GPU, stopped])
    assert not (tmp_path / "stopped/experiences/1_box/model.ckpt").exists()
    main(["fit", "--config", config, *GPU, stopped, "--resume"])
    torch.testing.assert_close(learnt(tmp_path / "stopped"), whole, rtol=0.1, atol=0.05)


def test_a_patient_is_tuned_to(stream, shapes, tmp_path):
    main(["fit", "--config", stream(), *GPU])
    model = str(tmp_path / "run/experiences/0_ball/model.ckpt")
    image, label = (sorted((shapes / kind).glob("*.nii"))[0] for kind in ("images", "labels"))
    annotated = nib.load(label)
    ball = (annotated.get_fdata() == 1).astype("uint8")
    nib.save(nib.Nifti1Image(ball, annotated.affine), tmp_path / "annotation.nii.gz")
    given = [model, str(image), f"--annotation={tmp_path / 'annotation.nii.gz'}", f"--output={tmp_path / 'adapted'}"]
    main(["adapt", *given, "--accelerator=gpu", "--steps=3"])
    before, after = (
        torch.load(path, weights_only=True)["state_dict"] for path in (model, tmp_path / "adapted/model.ckpt")
    )
    assert any((before[name] != after[name]).any() for name in before)
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_denoiser_learns_from_two_reconstructions(tmp_path, precision):
    config = str(Path(__file__).parents[1] / "configs/pet.yaml")
    few = ["--data.samples_per_epoch=16", "--trainer.max_epochs=1", "--trainer.limit_test_batches=1"]
    few += ["--model.network.init_args.features=8", "--trainer.check_val_every_n_epoch=1"]
    main(
        [
            "fit",
            "--config",
            config,
            *GPU,
            *few,
            f"--trainer.precision={precision}",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )
    assert (tmp_path / "experiences/1_v2/model.ckpt").exists()
