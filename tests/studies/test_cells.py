import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lit_continual.files.folder_lock import FolderLock
from lit_continual.stream import signals
from lit_continual.studies.cells import Cell, Workers, run_cells
from tests.processes import wait_until

ASKING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]

PARENT = """
import socket, sys
from pathlib import Path
from lit_continual.studies.cells import Cell, Workers, run_cells
fit, root, seconds, count, host = sys.argv[1:]
if host:
    socket.gethostname = lambda: host
cells = [Cell(f"cell {i}", Path(root) / str(i), (f"--seconds={seconds}",)) for i in range(4)]
with Workers(int(count), [sys.executable, fit]) as workers:
    for cell, error in run_cells(cells, workers, 0.02):
        print(cell.name, error, flush=True)
"""

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture(autouse=True)
def _log(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FIT_LOG", str(tmp_path / "log"))


@pytest.fixture
def fit():
    return [sys.executable, str(Path(__file__).parent / "fake_fit.py")]


@pytest.fixture
def cell(tmp_path):
    def make(name, *options, after=()):
        starts = [f"--stream.start={c.folder}/experiences/0_ball/model.ckpt" for c in after]
        return Cell(name, tmp_path / "runs" / name, (*options, *starts), tuple(c.folder for c in after))

    return make


def run(cells, fit, workers=2):
    with Workers(workers, fit) as pool:
        return {cell.name: error for cell, error in run_cells(cells, pool, 0.02)}


def begun(tmp_path):
    return Counter(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())


def test_each_runs_once_and_those_that_are_finished_not_again(cell, fit, tmp_path):
    cells = [cell(name) for name in "abc"]
    assert run(cells[:2], fit) == {"a": "", "b": ""}
    assert run(cells, fit) == {"c": ""}
    assert begun(tmp_path) == {"a": 1, "b": 1, "c": 1}
    assert run(cells, fit) == {}


def test_one_that_starts_from_another_waits_for_it(cell, fit, tmp_path):
    source = cell("source", "--seconds=0.2")
    target = cell("target", after=[source])
    last = cell("last", after=[target, source])
    assert list(run([source, target, last], fit, 3)) == ["source", "target", "last"]


def test_a_failure_is_told_takes_its_dependants_with_it_and_nothing_else(cell, fit, tmp_path):
    source = cell("source", "--fail=1")
    target = cell("target", after=[source])
    found = run([source, target, cell("last", after=[target]), cell("other")], fit)
    assert found["source"] == f"There is no such thing (all output: {source.folder / 'output.txt'})"
    assert found["target"] == found["last"] == "not begun, since it starts from source"
    assert found["other"] == ""
    assert begun(tmp_path) == {"source": 1, "other": 1}


def test_a_process_that_is_killed_is_told_and_run_again(cell, fit, tmp_path):
    one = cell("one", "--seconds=600")
    with Workers(1, fit) as pool:
        pool.start(one)
        wait_until((one.folder / "threads").exists)
        os.kill(pool.jobs[one].pid, signal.SIGKILL)
        found = wait_until(pool.ended)
    assert "ended by SIGKILL" in found[one]
    assert run([cell("one")], fit) == {"one": ""}


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_cell_has_as_many_threads_however_many_run_at_a_time(cell, fit, monkeypatch, workers):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)  # nor how many there are here
    one = cell("one")
    run([one], fit, workers)
    assert (one.folder / "threads").read_text() == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what the user says holds
    run([other := cell("other")], fit, workers)
    assert (other.folder / "threads").read_text() == "1"


def test_a_lock_ends_with_its_cell(cell, fit):
    one = cell("one")
    with Workers(1, fit) as pool:
        pool.start(one)
        holder = FolderLock(one.folder).holder()
        assert holder.pid == pool.jobs[one].pid
        wait_until(pool.ended)
    assert FolderLock(one.folder).holder() is None
    assert not [path.name for path in one.folder.iterdir() if path.name.startswith(".")]


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="`workers` must be at least 1, got 0"):
        Workers(0)


def parent(fit, tmp_path, seconds, workers=2, host="", **options):
    arguments = [fit[1], str(tmp_path / "runs"), str(seconds), str(workers), host]
    options = {"stdout": subprocess.DEVNULL, **options}
    return subprocess.Popen([sys.executable, "-c", PARENT, *arguments], **options)


def wait_for_two(tmp_path):
    wait_until(lambda: (tmp_path / "log").exists() and sum(begun(tmp_path).values()) >= 2)


def finished(tmp_path):
    return sorted(path.parent.name for path in (tmp_path / "runs").glob("*/run.json"))


@pytest.mark.slow
def test_after_a_sigkill_of_the_parent_no_cell_runs_twice_at_a_time_nor_again(fit, tmp_path):
    first = parent(fit, tmp_path, 3)
    wait_for_two(tmp_path)
    first.kill()
    first.wait(600)
    assert finished(tmp_path) == []
    second = parent(fit, tmp_path, 3)  # waits for the processes that the first left
    assert second.wait(600) == 0
    assert finished(tmp_path) == ["0", "1", "2", "3"]
    assert begun(tmp_path) == dict.fromkeys("0123", 1)


@pytest.mark.parametrize("number", ASKING)
def test_who_handles_signals_hears_of_one_that_comes_while_cells_run(cell, fit, monkeypatch, number):
    """It says how to go on."""
    monkeypatch.setattr(signals, "_received", [])
    with pytest.raises((SystemExit, KeyboardInterrupt)), signals.handled("go on"), Workers(1, fit):
        signal.raise_signal(number)
    assert signals.received() == number


def test_all_processes_are_asked_to_leave_before_one_is_waited_for(cell, fit, monkeypatch):
    """A second Ctrl-C ends the waiting."""

    def interrupted(*_):
        raise KeyboardInterrupt

    pool = Workers(2, fit)
    with pool:
        for one in (cell("one", "--seconds=600"), cell("two", "--seconds=600")):
            pool.start(one)
        asked = list(pool.jobs.values())
        for process in asked:
            monkeypatch.setattr(process, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.__exit__(None, None, None)
        monkeypatch.undo()
    assert [process.wait(300) for process in asked] == [-signal.SIGTERM, -signal.SIGTERM]


def test_what_fails_behind_the_start_of_a_process_ends_it(cell, fit, monkeypatch):
    begun = []

    def full(self, pid):
        begun.append(pid)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FolderLock, "hand_to", full)
    with pytest.raises(OSError, match="No space"), Workers(1, fit) as pool:
        pool.start(cell("one", "--seconds=600"))
    with pytest.raises(ProcessLookupError):
        os.kill(*begun, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", ASKING)
def test_a_signal_that_asks_to_leave_ends_the_processes_as_well(fit, tmp_path, number):
    first = parent(fit, tmp_path, 60)
    wait_for_two(tmp_path)
    first.send_signal(number)
    assert first.wait(600) != 0
    for line in (tmp_path / "log").read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[2]), 0)


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [("", ""), ("this", "that")], ids=["one host", "two hosts"])
def test_two_parents_share_the_cells(fit, tmp_path, hosts):
    both = [parent(fit, tmp_path, 1, 1, host) for host in hosts]
    assert [process.wait(600) for process in both] == [0, 0]
    assert finished(tmp_path) == ["0", "1", "2", "3"]
    assert begun(tmp_path) == dict.fromkeys("0123", 1)


def test_what_another_parent_runs_takes_no_room(cell, fit, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_continual.studies.cells.OTHERS", 0.0)
    theirs, mine = cell("theirs", "--seconds=600"), cell("mine")
    with Workers(1, fit) as other, Workers(1, fit) as pool:
        other.start(theirs)
        wait_until((theirs.folder / "threads").exists)
        pool.start(theirs)
        assert pool.free
        pool.start(mine)
        assert not pool.free
        assert wait_until(pool.ended) == {mine: ""}
        other.stop(theirs)
        assert wait_until(lambda: pool.ended() or pool.jobs[theirs]).pid  # takes over what is left
        wait_until(lambda: begun(tmp_path) == {"theirs": 2, "mine": 1})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for the parent of a process")
def test_what_a_killed_parent_has_left_takes_room(cell, fit, tmp_path):
    first = parent(fit, tmp_path, 60, 1)
    wait_until(lambda: (tmp_path / "log").exists() and begun(tmp_path))
    left = Cell("left", tmp_path / "runs" / "0", ())
    pid = wait_until(FolderLock(left.folder).holder).pid
    first.kill()
    first.wait(600)
    try:
        with Workers(1, fit) as pool:
            pool.start(left)
            assert not pool.free
    finally:
        os.kill(pid, signal.SIGKILL)


def test_each_worker_has_a_gpu_of_those_that_are_visible(cell, fit, monkeypatch):
    cells = [cell(name, "--seconds=0.3") for name in "abcd"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-3f")
    with Workers(3, fit, os.environ) as pool:
        for one in cells[:3]:
            pool.start(one)
        wait_until(lambda: pool.ended() and not pool.jobs)
    assert [(c.folder / "gpus").read_text() for c in cells[:3]] == ["5", "GPU-3f", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run(cells[3:], fit)
    assert (cells[3].folder / "gpus").read_text() == ""


def test_a_cell_is_what_its_run_json_says(tmp_path):
    one = Cell("one", tmp_path, ())
    assert not one.finished
    (tmp_path / "run.json").write_text(json.dumps({"status": "running"}))
    assert not one.finished
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished"}))
    assert one.finished
    assert Path(one.folder) == tmp_path
