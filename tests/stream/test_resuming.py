import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_continual.cli import main
from lit_continual.modules import Segmenter
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint
from lit_continual.runs.checkpoints.seal import seal
from lit_continual.stream.resumption import ResumePoint
from tests import processes
from tests.same_run import assert_same_run, load, same

LWF = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}


@pytest.fixture
def resumed(stream, tmp_path):
    """Run a stream to its end, and again with kills, each followed by a resume; return both folders."""

    def run(*kills, options=(), reports=True):
        arguments = ["fit", "--config", stream(LWF), "--model.scheduler=StepLR", "--model.scheduler.step_size=1"]
        arguments += ["--trainer.logger=false", *options]
        whole, cut = (tmp_path / name for name in ("whole", "cut"))
        log = tmp_path / "log.txt"
        if not (whole / "run.json").exists():
            assert processes.run([*arguments, f"--trainer.default_root_dir={whole}"], log, reports=reports) == 0, (
                log.read_text()
            )
        mine = [*arguments, f"--trainer.default_root_dir={cut}"]
        for i, kill in enumerate(kills):
            assert processes.run([*mine, *["--resume"] * bool(i)], log, kill, reports) == -9, log.read_text()
        assert processes.run([*mine, "--resume"], log, reports=reports) == 0, log.read_text()
        return cut, whole

    return run


@pytest.mark.parametrize("options", [[], ["--trainer.enable_checkpointing=false"]])
def test_a_training_that_diverges_ends_in_the_epoch_in_which_it_does(stream, tmp_path, options):
    """And writes no checkpoint of it: the run would be refused for ever after, with nothing to go back to."""
    fit = ["fit", "--config", stream(), "--trainer.max_epochs=3", "--trainer.logger=false", *options]
    fit.append("--model.optimizer={class_path: torch.optim.SGD, init_args: {lr: 1.0e+30}}")
    for resume in ([], ["--resume"]):
        with pytest.raises(ValueError, match=r"has diverged: in epoch 1, `.*` became nan or infinite.*--overwrite"):
            main([*fit, *resume])
        assert not list(tmp_path.rglob("*.ckpt"))


def test_a_checkpoint_that_is_not_what_was_left_is_named(stream, tmp_path, undrawn):
    """As when files were mixed up, or of somebody who can write a new checksum."""
    fit = ["fit", "--config", stream(LWF), "--trainer.logger=false", "--trainer.max_epochs=1"]
    main(fit)
    first, second = (tmp_path / "run/experiences" / name / "model.ckpt" for name in ("0_ball", "1_box"))
    whole, other = load_checkpoint(first), load_checkpoint(second)
    shutil.rmtree(second.parent)
    junk = {**whole, "callbacks": {key: {"x": 1} for key in whole["callbacks"]}}
    window = {**whole, "hyper_parameters": {**whole["hyper_parameters"], "roi_size": "16"}}
    seal(window, Segmenter)
    for content, message in (
        (other, r"0_ball.model.ckpt is the checkpoint of experience 1, 'box', and lies in the folder of 0, 'ball'"),
        (junk, r"The state of Distillation in the checkpoint before cannot be taken \('fitted'\). Restore it"),
        (window, r"0_ball.model.ckpt: `roi_size` is '16', not two or three numbers of voxels"),
    ):
        torch.save(content, first)
        with pytest.raises(ValueError, match=message):
            main([*fit, "--resume"])


STEP = "lit_continual.modules.Segmenter.training_step"
TEST_STEP = "lit_continual.modules.Segmenter.test_step"


WRITE = "torch._C.PyTorchFileWriter.write_record"  # one tensor or so into the file of a `torch.save`


@pytest.mark.slow  # of the points in tests/stream/test_kills.py one lies there
def test_killed_while_a_resume_checkpoint_is_written_the_old_one_is_there(stream, tmp_path):
    resume, log = tmp_path / "run/experiences/0_ball/resume", tmp_path / "log.txt"
    arguments = ["fit", "--config", stream(), "--trainer.logger=false", "--trainer.max_epochs=3"]
    written = {"function": "torch.save", "after": True}
    kills = ({"function": WRITE, "call": 5}, None), ({**written, "call": 1}, None), ({**written, "call": 2}, 0)
    for kill, epoch in kills:
        assert processes.run([*arguments, "--overwrite"], log, kill) == -9, log.read_text()
        parts = [path.name for path in resume.iterdir() if path.name != "resume.ckpt"]
        assert [name.rpartition(".")[2] for name in parts] == ["part"]
        if epoch is None:
            assert not (resume / "resume.ckpt").exists()
        else:
            assert load(resume / "resume.ckpt")["epoch"] == epoch


@pytest.mark.parametrize("end", [{"max_epochs": 3}, {"max_steps": 18, "max_epochs": -1}])
def test_no_resume_checkpoint_is_of_the_last_epoch(module, loader, trainer, tmp_path, end):
    """From one of it Lightning would train no batch, and skip the hooks in which a method may consolidate."""
    trainer(callbacks=ResumePoint(tmp_path), enable_checkpointing=True, **end).fit(module, loader)
    assert load(tmp_path / "resume.ckpt")["epoch"] == 1


class Reversed(TorchCheckpointIO):
    """A CheckpointIO of a user's own, in a format that nobody else reads."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.getvalue()[::-1])

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return torch.load(io.BytesIO(Path(path).read_bytes()[::-1]), weights_only=weights_only)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # two fits into one folder
@pytest.mark.parametrize("plugin", [f"{__name__}.Reversed", "AsyncCheckpointIO", None])
@pytest.mark.slow
def test_a_checkpoint_io_of_the_user_writes_what_the_user_asked_for(stream, tmp_path, monkeypatch, plugin):
    kept = tmp_path / "kept"
    dirpath = str(kept) if plugin else "memory://kept"
    keep = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": dirpath, "save_top_k": -1}}
    arguments = ["fit", "--config", stream(keep), "--trainer.logger=false"]
    if plugin:
        arguments.append(f"--trainer.plugins={json.dumps([{'class_path': plugin}])}")
    main([*arguments, f"--trainer.default_root_dir={tmp_path / 'whole'}"])
    with monkeypatch.context() as patch:
        patch.setattr(ResumePoint, "on_train_batch_start", _fail_in_second_epoch, raising=False)
        with pytest.raises(RuntimeError, match="cut"):
            main(arguments)
    main([*arguments, "--resume"])
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    if plugin:
        read = Reversed().load_checkpoint if "Reversed" in plugin else torch.load
        assert {read(path, weights_only=True)["epoch"] for path in kept.glob("*.ckpt")} == {0, 1}
    else:
        assert len(fsspec.filesystem("memory").ls("/kept")) >= 4


def _fail_in_second_epoch(point, trainer, *_):
    if trainer.current_epoch == 1:
        raise RuntimeError("cut")


def test_without_checkpoints_a_fit_that_was_cut_off_starts_anew(stream, tmp_path, monkeypatch, capsys):
    arguments = ["fit", "--config", stream(LWF), "--trainer.logger=false"]
    main([*arguments, f"--trainer.default_root_dir={tmp_path / 'whole'}"])
    arguments.append("--trainer.enable_checkpointing=false")
    with monkeypatch.context() as patch:
        patch.setattr(ResumePoint, "on_train_batch_start", _fail_in_second_epoch, raising=False)
        with pytest.raises(RuntimeError, match="cut"):
            main(arguments)
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    capsys.readouterr()
    main([*arguments, "--resume"])
    assert "going on" not in capsys.readouterr().out
    mine, theirs = (load(tmp_path / run / "experiences/1_box/model.ckpt") for run in ("run", "whole"))
    assert same(mine["state_dict"], theirs["state_dict"])
    assert same(mine["callbacks"], theirs["callbacks"])
    assert not list((tmp_path / "run").rglob("*.pt"))


MEMORY = [f"--stream.memory.{setting}" for setting in ("policy=Random", "budget.samples=5", "share=0.5")]


@pytest.mark.slow
def test_killed_before_a_memory_is_noted_a_run_ends_as_if_it_had_not_been(resumed):
    add = {"function": "lit_continual.data.ExemplarMemory.add", "call": 1, "after": True}
    cut, whole = resumed(add, {"function": STEP, "call": 1}, options=MEMORY)
    assert_same_run(cut, whole)
    assert len(json.loads((cut / "memory/manifest.json").read_text())["exemplars"]) == 10


@pytest.mark.slow
def test_killed_again_and_again(resumed):
    kills = [{"function": STEP, "call": n} for n in (1, 3, 2, 4)] + [{"function": TEST_STEP, "call": 1}] * 2
    assert_same_run(*resumed(*kills))


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own_is_killed_and_resumed(stream, tmp_path):
    command = [sys.executable, "-m", "lit_continual", "fit", "--config", stream(LWF), "--trainer.logger=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for run in ("whole", "cut"):
        root = f"--trainer.default_root_dir={tmp_path / run}"
        if run == "cut":
            log = tmp_path / "log.txt"
            kill = {"function": STEP, "call": 7}
            assert processes.run([*command[3:], root], log, kill) == -9, log.read_text()
        subprocess.run([*command, root, *["--resume"] * (run == "cut")], check=True, env=environment)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
def test_killed_while_an_old_run_makes_room(stream, tmp_path):
    config, log, run = stream(), tmp_path / "log.txt", tmp_path / "run"
    arguments = ["fit", "--config", config, "--trainer.max_epochs=1", "--trainer.logger=false"]
    assert processes.run(arguments, log) == 0, log.read_text()
    fewer = [*arguments, "--model.optimizer.lr=0.02", "--overwrite"]
    kill = {"function": "pathlib.Path.rename", "call": 4}  # a part of the old run has been moved aside
    assert processes.run(fewer, log, kill) == -9, log.read_text()
    assert any((run / ".overwritten").iterdir())
    assert processes.run([*fewer[:-1], "--resume"], log) == 1  # the old one is there again, of another rate
    assert "differs, add --resume-with-changes" in log.read_text()
    assert not (run / ".overwritten").exists()
    assert processes.run([*arguments, "--resume"], log) == 0, log.read_text()
    assert processes.run(fewer, log) == 0, log.read_text()
    assert processes.run([*fewer[:-1], f"--trainer.default_root_dir={tmp_path / 'new'}"], log) == 0, log.read_text()
    mine, theirs = (load(path / "experiences/1_box/model.ckpt")["state_dict"] for path in (run, tmp_path / "new"))
    assert same(mine, theirs)
