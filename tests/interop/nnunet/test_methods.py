"""Every method teaches a model of nnU-Net a new class, and what it has made of it goes back to nnU-Net."""

import json
import re
import shutil

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback

from lit_continual import callbacks
from lit_continual.cli import main
from lit_continual.modules import NNUNetSegmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint
from tests.interop.nnunet.test_learn import config

EXEMPLARS = {"policy": "Random", "budget": {"volumes": 2, "per_class": False}, "share": 0.5}
MAML = {"class_path": "MAML", "init_args": {"inner_lr": 0.01}}

# Name of the class, and behind a space which of its ways -> its arguments, and options of the stream.
METHODS = {
    "AGEM": ({}, {"memory": {**EXEMPLARS, "batches": "mixed"}}),
    "DarkExperienceReplay": ({"alpha": 0.5, "beta": 1.0}, {"memory": {**EXEMPLARS, "batches": "mixed"}}),
    "ChannelsLast": ({}, {}),
    "CompiledNetwork": ({"backend": "eager"}, {}),
    "Distillation": ({"alpha": 0.5, "teacher": "FOLDER"}, {}),
    "Distillation start": ({"alpha": 0.5}, {}),
    "EWC": ({"strength": 1e4, "samples": 2}, {"two": True}),
    "ILT": ({"loss_de": 10.0}, {"heads": "shared"}),
    "L2SP": ({"parameters": ["body"], "anchor": "FOLDER", "strength": 0.1}, {}),
    "LoRA": ({"rank": 1, "layers": ["body"], "after": 0}, {}),
    "MAS": ({"strength": 1e4, "samples": 2}, {"two": True}),
    "MetaTune": ({"strategy": MAML, "episodes": {"order": "passive"}}, {"dims": 2}),
    "MetaTune active": ({"strategy": MAML, "episodes": {"order": "active", "threshold": 0.1}}, {"dims": 2}),
    "MiB": ({}, {"heads": "shared"}),
    "PLOP": ({}, {"heads": "shared"}),
    "Pretrained": ({"weights": "FOLDER"}, {}),
    "RWalk": ({"strength": 1e4, "every": 1}, {"two": True}),
    "SI": ({"strength": 1e4}, {"two": True}),
    "TargetedGradientDescent": ({"phi": 0.4, "network": "body"}, {}),
    "TrainOnly": ({"parts": ["heads"]}, {}),
    "WeightFusion": ({}, {}),
}
#: Those that train as if they were not there: one that begins with the weights that are there, and those for speed.
NEUTRAL = {"Pretrained", "ChannelsLast", "CompiledNetwork"}
QUICK = {"Distillation", "LoRA", "MiB"}  # one that asks an old network, one that adds layers, one of a shared head
REFUSED, BASES = {"PatientTuning"}, {"LossTerm", "PartialTraining"}


def test_every_method_has_an_entry():
    public = {name: value for name, value in vars(callbacks).items() if isinstance(value, type)}
    found = {name for name, value in public.items() if issubclass(value, Callback)}
    assert {entry.split()[0] for entry in METHODS} | REFUSED | BASES == found


def fit(folder, raw, run, *callbacks, two=False, memory=None, heads="separate", dims=3):
    """A stream of one new class, or where a method needs a past of two, as its last checkpoint."""
    classes = ["cone", "tip"] if two or memory else ["cone"]
    options = [f"--stream.start={folder}", "--trainer.limit_train_batches=2", f"--model.heads={heads}"]
    options.append(
        "--stream.experiences=" + json.dumps([{"name": name, "classes": {name: "cone"}} for name in classes])
    )
    options += [f"--stream.memory={json.dumps(memory)}"] if memory else []
    run.mkdir()
    main(["fit", "--config", config(raw, run, *callbacks), *options])
    return run / f"run/experiences/{len(classes) - 1}_{classes[-1]}/model.ckpt"


def described(method, arguments, folder):
    given = {key: str(folder) if value == "FOLDER" else value for key, value in arguments.items()}
    return {"class_path": method.split()[0], "init_args": given}


@pytest.fixture(scope="module")
def plain():
    """Weights that streams without a method end with, by their options."""
    return {}


@pytest.mark.filterwarnings("ignore:.*has measured nothing of the model that this stream starts from")
@pytest.mark.filterwarnings("ignore:.*met no exemplar in this epoch")  # the model that it starts from has left none
@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_method_teaches_it_and_it_goes_back(toy, raw, tmp_path, method, plain, capsys):
    arguments, options = METHODS[method]
    folder = toy(stages=4, dims=options.get("dims", 3))  # of which one more resolution is supervised
    path = fit(folder, raw, tmp_path / "method", described(method, arguments, folder), **options)
    state = load_checkpoint(path)["state_dict"]
    module = Checkpoint(path).module(NNUNetSegmenter)
    assert module.classes[:3] == ["ball", "box", "cone"]
    assert state.keys() == module.state_dict().keys()
    if (key := json.dumps(options)) not in plain:
        plain[key] = load_checkpoint(fit(folder, raw, tmp_path / "plain", **options))["state_dict"]
    same = all(torch.allclose(value, state[name], atol=1e-6) for name, value in plain[key].items())
    assert same == (method in NEUTRAL)
    (one := tmp_path / "one").mkdir()
    shutil.copy(raw / "imagesTr/case_0_0000.nii.gz", one)
    main(["export", str(path), "--format=nnunet", f"--output={tmp_path / 'new'}", f"--images={one}"])
    assert "in 0 the label of nnU-Net is another than here (1 images)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "arguments", "options", "message"),
    [
        ("MetaTune", METHODS["MetaTune"][0], {}, "`episodes` are of slices, and `patch_size` is [8, 16, 16]"),
        ("PatientTuning", {}, {}, "`PatientTuning` shows a network annotated slices of the file, and NNUNetSegmenter"),
        ("MiB", {}, {}, "`heads: shared`"),
    ],
)
def test_what_cannot_be_is_refused_before_training(toy, raw, tmp_path, method, arguments, options, message):
    folder = toy(stages=4)
    with pytest.raises((ValueError, MisconfigurationException), match=re.escape(message)):
        fit(folder, raw, tmp_path / "method", described(method, arguments, folder), **options)
    assert not list((tmp_path / "method").rglob("*.ckpt"))


def test_importances_that_nobody_has_measured_are_told(toy, raw, tmp_path):
    with pytest.warns(UserWarning, match="`EWC` .* has measured nothing of the model that this stream starts from"):
        fit(toy(), raw, tmp_path / "method", described("EWC", METHODS["EWC"][0], ""))
