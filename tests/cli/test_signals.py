import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from lit_continual.stream import signals
from tests import processes
from tests.marks import slow_but

STEP = "lit_continual.modules.Segmenter.training_step"
PHASES = {
    "before training": "lit_continual.stream.stream_loop.StreamLoop.run",
    "setup": "lit_continual.data.SegmentationDataModule.setup",
    "training": STEP,
    "validation": "lit_continual.modules.Segmenter.validation_step",
    "end of a fit": "lit_continual.stream.stream_loop.StreamLoop._keep",
    "selection": "lit_continual.methods.rehearsal.exemplars.Exemplars.chosen",
    "evaluation": "lit_continual.modules.Segmenter.test_step",
    "report": "lit_continual.reports.terminal.matrix_table",
}
TOLD = "lit-continual: stopped by {}; go on with --resume."


@pytest.fixture
def fit(stream, tmp_path):
    """Run a stream in a process of its own; return its exit code and what it wrote."""

    def run(kill=None, *options):
        log = tmp_path / "log.txt"
        log.unlink(missing_ok=True)
        memory = ["--stream.memory.policy=Random", "--stream.memory.budget.samples=4", "--trainer.max_epochs=1"]
        arguments = ["fit", "--config", stream(), "--trainer.logger=false", *memory, *options]
        return processes.run(arguments, log, kill, reports=False), log.read_text()

    return run


@pytest.mark.parametrize("phase", slow_but(PHASES, "training", "selection", "evaluation", "report"))
def test_sigterm_ends_a_fit_with_143_and_a_line_that_says_how_to_go_on(fit, phase):
    code, said = fit({"function": PHASES[phase], "call": 1, "number": signal.SIGTERM})
    assert code == 143, said
    assert said.splitlines()[-1] == TOLD.format("SIGTERM")
    assert "Traceback" not in said


@pytest.mark.parametrize("phase", slow_but(["before training", "training", "evaluation"], "training"))
def test_ctrl_c_ends_a_fit_with_130(fit, phase):
    code, said = fit({"function": PHASES[phase], "call": 1, "number": signal.SIGINT})
    assert code == 130, said
    assert said.splitlines()[-1] == TOLD.format("Ctrl-C")
    assert "Traceback" not in said


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows closes terminals without it")
def test_a_terminal_that_is_closed_ends_a_fit_with_129(fit):
    code, said = fit({"function": STEP, "call": 1, "number": signal.SIGHUP})
    assert code == 129, said
    assert said.splitlines()[-1] == TOLD.format("SIGHUP")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows closes terminals without it")
def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled("go on"):
            os.kill(os.getpid(), signal.SIGHUP)
            signals.check()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("call", [1, 4])
def test_a_signal_to_the_group_ends_a_fit_with_its_workers(fit, number, call):
    kill = {"function": STEP, "call": call, "number": number, "group": True}
    code, said = fit(kill, "--data.num_workers=2", "--data.batch_size=2")
    assert code == 128 + number, said
    assert said.splitlines()[-1] == TOLD.format("SIGTERM" if number == signal.SIGTERM else "Ctrl-C")
    assert "Traceback" not in said


def test_what_swallows_the_exception_of_a_signal_does_not_swallow_the_signal(fit):
    """A signal may strike in a finalizer, out of which nothing is raised."""
    kill = {"function": f"{__name__}.Finalized.__del__", "call": 1, "number": signal.SIGTERM}
    callback = json.dumps({"class_path": f"{__name__}.Finalizing"})
    code, said = fit(kill, f"--trainer.callbacks+={callback}")
    assert code == 143, said
    assert said.splitlines()[-1] == TOLD.format("SIGTERM")


IMPORTING = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Finder())
from lit_continual.__main__ import command
command()
"""


def test_sigterm_while_packages_are_imported(stream):
    run = subprocess.run([sys.executable, "-c", IMPORTING, "fit", "--config", stream()], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (143, TOLD.format("SIGTERM") + "\n")


def test_an_ordinary_fit_goes_on_from_a_checkpoint(stream, tmp_path):
    log, kill = tmp_path / "log.txt", {"function": STEP, "call": 1, "number": signal.SIGTERM}
    options = ["--data.classes={ball: 1}", '--model.heads=[["ball"]]', "--trainer.logger=false"]
    assert processes.run(["fit", "--config", stream(experiences=[]), *options], log, kill) == 143
    assert log.read_text().splitlines()[-1] == "lit-continual: stopped by SIGTERM; go on with --ckpt_path."


DDP = """
import os, signal, sys
from tests.processes import wait_until
from lit_continual import cli
from lit_continual.modules import Segmenter
number, rank, me = int(os.environ["NUMBER"]), os.environ["STOPPED"], os.environ.get("LOCAL_RANK", "0")
step = Segmenter.training_step
def stopped(*arguments):
    open(f"{os.environ['OUT']}/{me}", "w").close()
    if rank == me:
        wait_until(lambda: all(os.path.exists(f"{os.environ['OUT']}/{one}") for one in "01"))
        os.kill(os.getpid(), number)
    return step(*arguments)
Segmenter.training_step = stopped
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_two_ranks_end_together(stream, tmp_path, number, rank):
    (tmp_path / "ddp.py").write_text(DDP)
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=2", "--trainer.logger=false"]
    command = [sys.executable, str(tmp_path / "ddp.py"), "fit", "--config", stream(), *ddp]
    # Both ranks hold the pipe, whose end is read when both are gone.
    environment = {**os.environ, "OUT": str(tmp_path), "NUMBER": str(int(number)), "STOPPED": rank}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert (tmp_path / "1").exists(), run.stderr
    if number == signal.SIGTERM:
        assert run.returncode == 143, run.stderr
        assert run.stderr.splitlines()[-1] == TOLD.format("SIGTERM")
        assert "Traceback" not in run.stderr
    else:
        assert run.returncode != 0


class Finalized:
    def __del__(self):
        pass


class Finalizing(Callback):
    def on_train_batch_end(self, *_):
        Finalized()
