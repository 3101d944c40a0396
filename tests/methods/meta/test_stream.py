"""Streams whose experiences train the model in ways of their own: meta-tuning after plain training."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from lit_continual.cli import main
from lit_continual.modules import Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the process that forks, too
import processes

CLASSES = {"ball": 1, "box": 2}


@pytest.fixture
def meta_stream(stream, tmp_path, dim_shapes):
    """Write the config of a stream from one scanner to another, and return its path."""

    def write(name, source=(), **stream_options):
        config = json.loads(Path(stream()).read_text())
        sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}
        experiences = [
            {"name": "bright", "model": {"optimizer": sgd}, **dict(source)},
            {"name": "dim", "data": {"dataset": str(dim_shapes)}},
        ]
        config["stream"] = {"experiences": experiences, **stream_options}
        strategy = {"class_path": "MAML", "init_args": {"inner_lr": 0.01}}
        tuning = {"after": 1, "strategy": strategy, "episodes": {"order": "active", "tasks": 1}}
        config["trainer"]["callbacks"] = [{"class_path": "MetaTune", "init_args": tuning}]
        config["data"]["init_args"] |= {"classes": CLASSES}
        config["trainer"]["default_root_dir"] = str(tmp_path / name)
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config))
        return str(tmp_path / f"{name}.yaml")

    return write


def checkpoint(path):
    return torch.load(path / "model.ckpt", weights_only=True)


def matrix(folder):
    return json.loads((folder / "matrix.json").read_text())["dice"]


@pytest.mark.slow
def test_plain_training_then_meta_tuning(meta_stream, tmp_path):
    main(["fit", "--config", meta_stream("whole")])
    whole = tmp_path / "whole"
    assert [len(row) for row in matrix(whole)] == [2, 2]
    assert all(value is not None for row in matrix(whole) for value in row)
    source, tuned = (whole / "experiences" / name for name in ("0_bright", "1_dim"))
    assert checkpoint(source)["experience"]["steps"] == 2 * 4  # two epochs of four batches
    assert checkpoint(tuned)["experience"]["steps"] == 2 * 4  # of four patients
    assert Checkpoint(tuned / "model.ckpt").module().classes == ["ball", "box"]

    old = checkpoint(source) | {"callbacks": {}}  # as of a `MetaTune` that was a module, or of a fit without it
    torch.save(old, tmp_path / "old.ckpt")
    start = {"start": str(tmp_path / "old.ckpt")}
    main(["fit", "--config", meta_stream("again", source={"max_epochs": 0}, **start)])
    assert matrix(tmp_path / "again") == matrix(whole)
    weights = (checkpoint(folder / "experiences" / "1_dim")["state_dict"] for folder in (whole, tmp_path / "again"))
    assert_close(*weights, rtol=0, atol=0)


def test_each_experience_trains_its_model(meta_stream, monkeypatch):
    seen, configure = [], Segmenter.configure_optimizers
    monkeypatch.setattr(Segmenter, "configure_optimizers", lambda self: seen.append(configure(self)) or seen[-1])
    main(["fit", "--config", meta_stream("run"), "--trainer.max_epochs=1"])
    assert [(type(o).__name__, o.defaults["lr"]) for o in seen] == [("SGD", 0.01), ("AdamW", 0.01)]


def test_names_the_experience_whose_model_is_wrong(meta_stream):
    with pytest.raises(ValueError, match=r"The model of experience bright is wrong: .*optimiser"):
        main(["fit", "--config", meta_stream("run", source={"model": {"optimiser": None}})])


def test_an_experience_may_bring_another_data_module(stream, dim_shapes):
    own = {"dataset": str(dim_shapes), "patch_size": [16, 16]}
    other = {"class_path": "lit_continual.data.SegmentationDataModule", "init_args": own}
    ball = {"name": "ball", "classes": {"ball": 1}, "data": other}
    cli = main(["fit", "--config", stream(experiences=[ball]), "--trainer.max_epochs", "1"])
    assert cli._data(cli.stream.experiences[0], None).batch_size == 8  # its own default, not the section's 4


@pytest.mark.slow
def test_a_killed_meta_tuning_ends_as_if_it_had_not_been(meta_stream, tmp_path):
    main(["fit", "--config", meta_stream("whole")])
    args = ["fit", "--config", meta_stream("killed")]
    kill = {"function": "lit_continual.methods.meta.meta_step.MetaStep.train", "call": 7}
    assert processes.run(args, tmp_path / "log", kill) == -9
    assert processes.run([*args, "--resume"], tmp_path / "log") == 0
    ends = (checkpoint(tmp_path / name / "experiences" / "1_dim")["state_dict"] for name in ("whole", "killed"))
    assert_close(*ends, rtol=0, atol=0)
