"""What a process says of an error that arose where others write, such as a logger."""

import errno
import os

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_continual.cli import dispatch, main


@pytest.fixture
def said(monkeypatch, capsys):
    """Run a command that fails, as a process does; return its exit code and what it wrote."""

    def run(error):
        def fails(arguments):
            raise error

        monkeypatch.setitem(dispatch.COMMANDS, "report", fails)
        monkeypatch.setattr("sys.argv", ["lit-continual", "report"])
        with pytest.raises(SystemExit) as ended:
            dispatch.main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some space or choose"),
        (errno.EDQUOT, "Free some space or choose"),
        (errno.EFBIG, "Free some space or choose"),
        (errno.EACCES, "Get the permission for it or choose"),
        (errno.EPERM, "Get the permission for it or choose"),
        (errno.EROFS, "Choose a folder on a file system that may be written"),
        (errno.EIO, "Check the disk or choose"),
        (errno.EMFILE, "Allow more open files"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
        (errno.EISDIR, "Move away what is in the place of the file"),
        (errno.ENOTDIR, "Move away what is in the place of the file"),
        (errno.EEXIST, "Move away what is in the place of the file"),
        (errno.ELOOP, "Choose a place whose links do not lead in a circle"),
    ],
)
def test_an_error_of_a_disk_is_one_sentence_with_its_own_remedy(said, number, remedy):
    code, written = said(OSError(number, os.strerror(number), "logs/metrics.csv"))
    assert code == 1
    (line,) = written.splitlines()
    assert line.startswith("lit-continual: error: [Errno")
    assert os.strerror(number) in line
    assert "logs/metrics.csv" in line
    assert remedy in line


@pytest.mark.parametrize("how", ["(pid 7) is killed by signal: Killed. ", "(pid(s) 7, 8) exited unexpectedly"])
def test_a_process_that_loads_data_and_is_ended_is_one_sentence(said, how):
    """The system ends it where memory is short."""
    code, written = said(RuntimeError(f"DataLoader worker {how}"))
    assert code == 1
    (line,) = written.splitlines()
    assert line.startswith(f"lit-continual: error: DataLoader worker {how.rstrip('. ')}. Most often memory is short")
    assert line.endswith("a fit goes on with --resume.")


def test_a_kernel_that_is_not_deterministic_is_one_sentence(said):
    """What torch says of a cross-entropy on a GPU."""
    torchs = "does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'. You"
    code, written = said(RuntimeError(f"nll_loss2d_forward_out_cuda_template {torchs} can turn off determinism"))
    assert code == 1
    (line,) = written.splitlines()
    assert "cuda_template does not have a deterministic implementation here. Set `--trainer.deterministic warn`" in line


PLATEAU = "{class_path: lightning.pytorch.cli.ReduceLROnPlateau, init_args: {monitor: val_loss}}"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: val_loss}}]", "`val_loss` which is not"),
        ("trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {monitor: val_loss}}]", "not find the monitored"),
        ("trainer.callbacks=LearningRateMonitor", "writes to a logger, and `trainer.logger` is false"),
        ("trainer.val_check_interval=100", "`val_check_interval` (100) must be less than or equal to the number of"),
        (f"model.scheduler={PLATEAU}", "metric val_loss which is not available"),
    ],
)
def test_what_lightning_says_in_a_fit_is_one_sentence(stream, option, says):
    with pytest.raises((RuntimeError, ValueError, MisconfigurationException)) as caught:
        main(["fit", "--config", stream(), "--trainer.logger=false", f"--{option}"])
    said = dispatch._explained(caught.value)
    assert says in said
    assert "\n" not in said


def test_an_error_that_is_not_the_users_keeps_its_traceback(monkeypatch):
    def fails(arguments):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))

    monkeypatch.setitem(dispatch.COMMANDS, "report", fails)
    monkeypatch.setattr("sys.argv", ["lit-continual", "report"])
    with pytest.raises(OSError, match="non-socket"):
        dispatch.main()
