import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lit_continual.runs.folder_lock import FolderLock
from lit_continual.studies.cells import Cell, Workers, run_cells
from tests.processes import wait_until

PARENT = """
import sys
from pathlib import Path
from lit_continual.studies.cells import Cell, Workers, run_cells
fit, root, seconds = sys.argv[1:]
cells = [Cell(f"cell {i}", Path(root) / str(i), (f"--seconds={seconds}",)) for i in range(4)]
with Workers(2, [sys.executable, fit]) as workers:
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
    one = cell("one", "--seconds=60")
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
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
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


def parent(fit, tmp_path, seconds):
    arguments = [fit[1], str(tmp_path / "runs"), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.DEVNULL)


def wait_for_two(tmp_path):
    wait_until(lambda: (tmp_path / "log").exists() and sum(begun(tmp_path).values()) >= 2)


def finished(tmp_path):
    return sorted(path.parent.name for path in (tmp_path / "runs").glob("*/run.json"))


@pytest.mark.slow
def test_after_a_sigkill_of_the_parent_no_cell_runs_twice_at_a_time_nor_again(fit, tmp_path):
    first = parent(fit, tmp_path, 3)
    wait_for_two(tmp_path)
    first.kill()
    first.wait(120)
    assert finished(tmp_path) == []
    second = parent(fit, tmp_path, 3)  # waits for the processes that the first left
    assert second.wait(120) == 0
    assert finished(tmp_path) == ["0", "1", "2", "3"]
    assert begun(tmp_path) == dict.fromkeys("0123", 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_asks_to_leave_ends_the_processes_as_well(fit, tmp_path, number):
    first = parent(fit, tmp_path, 60)
    wait_for_two(tmp_path)
    first.send_signal(number)
    assert first.wait(120) != 0
    for line in (tmp_path / "log").read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[2]), 0)


@pytest.mark.slow
def test_two_parents_share_the_cells(fit, tmp_path):
    both = [parent(fit, tmp_path, 1) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert finished(tmp_path) == ["0", "1", "2", "3"]
    assert begun(tmp_path) == dict.fromkeys("0123", 1)


def test_a_cell_is_what_its_run_json_says(tmp_path):
    one = Cell("one", tmp_path, ())
    assert not one.finished
    (tmp_path / "run.json").write_text(json.dumps({"status": "running"}))
    assert not one.finished
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished"}))
    assert one.finished
    assert Path(one.folder) == tmp_path
