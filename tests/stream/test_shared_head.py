"""Streams on one softmax that grows: every method, resumption, processes, precision."""

import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_continual.callbacks import ILT, PLOP, Distillation, MiB
from lit_continual.cli import main
from lit_continual.data import SegmentationDataModule
from lit_continual.data.case_lists.splits import Split
from lit_continual.modules import Segmenter
from tests import processes
from tests.marks import slow_but
from tests.same_run import assert_same_run
from tests.tiny import write_shapes

NETWORK = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}
SHARED = ["--model.heads=shared", "--model.optimizer.weight_decay=0"]  # of what L2SP anchors


def callback(name, **arguments):
    return {"class_path": name, "init_args": arguments}


METHODS = {
    "fine-tuning": [],
    "distillation": [callback("Distillation", alpha=0.5)],
    "l2sp": [callback("L2SP", strength=0.5, parameters=["body", "heads"], anchor="last_fit")],
    "tgd": [callback("TargetedGradientDescent", share=0.7, after=1)],
    "train only": [callback("TrainOnly", parts=["heads"], after=1)],
    "mib": [callback("MiB")],
    "plop": [callback("PLOP")],
    "ilt": [callback("Distillation", alpha=0.5), callback("ILT")],
}
TAUGHT = ["distillation", "mib", "plop", "ilt"]


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", slow_but(METHODS, "mib"))
def test_a_stream_ends_with_one_softmax_and_is_predicted_from_its_checkpoint(stream, shapes, tmp_path, name):
    main(["fit", "--config", stream(*METHODS[name]), *SHARED])
    run, predictions = tmp_path / "run", tmp_path / "predictions"
    first, last = (load(run / f"experiences/{part}/model.ckpt") for part in ("0_ball", "1_box"))
    assert [c["hyper_parameters"]["heads"] for c in (first, last)] == ["shared"] * 2
    assert last["hyper_parameters"]["classes"] == [["ball"], ["box"]]
    assert {k: tuple(v.shape) for k, v in last["state_dict"].items() if k.startswith("heads.layers.1")} == {
        "heads.layers.1.weight": (1, 4, 1, 1),
        "heads.layers.1.bias": (1,),
    }
    dice = json.loads((run / "matrix.json").read_text())["dice"]
    assert [[value is not None for value in row] for row in dice] == [[True, False], [True, True]]
    checkpoint = run / "experiences/1_box/model.ckpt"
    main(["predict", str(checkpoint), str(shapes / "images"), f"--output={predictions}"])
    assert json.loads((predictions / "labels.json").read_text()) == {"background": 0, "ball": 1, "box": 2}
    found = {int(v) for path in predictions.glob("*.nii.gz") for v in np.unique(nib.load(path).dataobj)}
    assert found <= {0, 1, 2}
    if name == "tgd":  # what is new is free
        masks = last["callbacks"]["TargetedGradientDescent[]"]["masks"]
        assert all(mask.all() for key, mask in masks.items() if key.startswith("heads.layers.1"))
        assert not all(mask.all() for mask in masks.values())
    if name == "train only":
        assert all(torch.equal(v, last["state_dict"][k]) for k, v in first["state_dict"].items() if "body" in k)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_killed_inside_the_second_experience_it_ends_as_if_it_had_not_been(stream, tmp_path, name):
    log, arguments = tmp_path / "log.txt", ["fit", "--config", stream(*METHODS[name]), *SHARED]
    whole, cut = (tmp_path / part for part in ("whole", "cut"))
    assert processes.run([*arguments, f"--trainer.default_root_dir={whole}"], log, reports=False) == 0, log.read_text()
    mine = [*arguments, f"--trainer.default_root_dir={cut}"]
    kill = {"function": "lit_continual.modules.Segmenter.training_step", "call": 6}  # 2 epochs of 2 batches each
    assert processes.run(mine, log, kill, reports=False) == -9, log.read_text()
    assert processes.run([*mine, "--resume"], log, reports=False) == 0, log.read_text()
    assert_same_run(cut, whole)


@pytest.mark.slow
def test_exemplars_are_mixed_into_an_experience_of_a_shared_head(stream, tmp_path):
    memory = {"policy": "Random", "budget": {"samples": 4}}
    main(["fit", "--config", stream(callback("MiB"), memory=memory), *SHARED])
    assert (tmp_path / "run/memory").exists()
    joint = [*SHARED, "--stream.mode=joint", f"--trainer.default_root_dir={tmp_path / 'joint'}"]
    main(["fit", "--config", stream(callback("MiB")), *joint])
    together = load(tmp_path / "joint/experiences/1_box/model.ckpt")
    assert together["hyper_parameters"]["classes"] == [["ball", "box"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", TAUGHT)
def test_two_processes_learn_what_one_does_with_the_same_global_batch(stream, tmp_path, name):
    sgd = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.05"]
    command = [sys.executable, "-m", "lit_continual", "fit", "--config", stream(*METHODS[name]), *SHARED, *sgd]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    one, two = tmp_path / "one", tmp_path / "two"
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=2"]
    for folder, options in ((one, []), (two, ddp)):
        run = [*command, *options, f"--trainer.default_root_dir={folder}"]
        subprocess.run(run, check=True, env=environment, timeout=900)
    for part in ("0_ball", "1_box"):
        mine, theirs = (load(folder / f"experiences/{part}/model.ckpt")["state_dict"] for folder in (two, one))
        assert_close(mine, theirs, rtol=0, atol=1e-5)


def data(folder, classes, part, batch_size=4, fractions=(0.5, 0.25, 0.25)):
    split = Split(fractions=fractions, part=part)
    return SegmentationDataModule(str(folder), [16, 16], classes, batch_size=batch_size, split=split, seed=0)


MAKE = {"distillation": Distillation, "mib": MiB, "plop": PLOP, "ilt": ILT}


@pytest.fixture(params=TAUGHT)
def learnt(request, shapes, trainer):
    """Learn two experiences, and return the weights after them and what was logged."""

    def learn(batch_size=4, optimizer=torch.optim.SGD, **options):
        torch.manual_seed(0)
        network = {**NETWORK, "norm": "INSTANCE"}
        module = Segmenter(network, features=4, heads="shared", optimizer=lambda p: optimizer(p, lr=0.1))
        method = MAKE[request.param]()
        for classes, part in (({"ball": 1}, (0, 2)), ({"box": 2}, (1, 2))):
            torch.manual_seed(1)
            fit = trainer(callbacks=[method], max_epochs=2, limit_val_batches=0, num_sanity_val_steps=0, **options)
            fit.fit(module, datamodule=data(shapes, classes, part, batch_size))
        return module.state_dict(), fit.callback_metrics

    return learn


pytestmark = pytest.mark.filterwarnings("ignore:.* has no old network")


def test_accumulated_halves_are_the_whole_batch(learnt):
    (whole, _), (halves, _) = learnt(), learnt(batch_size=2, accumulate_grad_batches=2)
    assert_close(halves, whole, rtol=0, atol=1e-5)


def test_bf16_mixed_and_a_clipped_gradient_learn_close_to_full_precision(learnt):
    (full, _), (mixed, logged) = learnt(gradient_clip_val=0.01), learnt(gradient_clip_val=0.01, precision="bf16-mixed")
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in mixed.values())
    assert_close(mixed, full, rtol=0, atol=0.02)
    assert all(value.isfinite() for name, value in logged.items() if name.startswith("train/"))


def test_clipping_holds_the_gradient_of_loss_and_terms_together(learnt):
    norms = []

    class Recorded(torch.optim.SGD):
        def step(self, closure=None):
            result = super().step(closure)
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(torch.stack([g.norm() for g in gradients]).norm().item())
            return result

    learnt(optimizer=Recorded, gradient_clip_val=1e-3)
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-3)


@pytest.mark.slow
def test_the_methods_keep_the_class_that_fine_tuning_forgets(tmp_path, trainer):
    folder, split = write_shapes(tmp_path / "shapes", cases=16), (0.6, 0.1, 0.3)
    network = {"_target_": "BasicUNet", "spatial_dims": 2, "features": [8, 8, 16, 16, 16, 8], "norm": "BATCH"}
    found = {}
    for name, callbacks in {"fine-tuning": [], "mib": [MiB(loss_kd=1.0)], "plop": [PLOP()]}.items():
        torch.manual_seed(0)
        adam = lambda p: torch.optim.AdamW(p, lr=0.01)  # noqa: E731
        module = Segmenter(network, features=8, heads="shared", optimizer=adam)
        for classes, part in (({"ball": 1}, (0, 2)), ({"box": 2}, (1, 2))):
            fit = trainer(callbacks=callbacks, max_epochs=25, limit_val_batches=0, num_sanity_val_steps=0)
            fit.fit(module, datamodule=data(folder, classes, part, 8, split))
        both = data(folder, {"ball": 1, "box": 2}, (0, 1), 8, split)
        (found[name],) = trainer().test(module, datamodule=both, verbose=False)
    ball, box = ({name: scores[f"test/dice/{c}"] for name, scores in found.items()} for c in ("ball", "box"))
    assert ball["fine-tuning"] < 0.5
    assert min(ball["mib"], ball["plop"]) > 0.8, (ball, box)
    assert min(box.values()) > 0.5, (ball, box)
