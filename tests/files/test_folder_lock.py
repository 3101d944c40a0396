import json
import os
import subprocess
import sys
import time

import pytest

from lit_continual.files import folder_lock
from lit_continual.files.folder_lock import INHERITED, NAME, SILENCE, FolderLock
from lit_continual.files.process import Process


@pytest.fixture
def gone():
    """A process on this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = Process.of(process.pid)
    process.communicate(b"\n")
    return found


def locked(folder, process, silent=0.0):
    """Leave the lock of a process in a folder."""
    lock = FolderLock(folder)
    lock.take()
    file = folder / NAME / f"{lock.token}.json"
    file.write_text(json.dumps(vars(process)))
    os.utime(file, (time.time() - silent,) * 2)


def left(folder):
    return [path.name for path in folder.iterdir()]


def test_one_process_at_a_time(tmp_path):
    with FolderLock(tmp_path).held() as before:
        assert before == ""
        assert FolderLock(tmp_path).holder() == Process.of(os.getpid())
        with pytest.raises(ValueError, match=rf"is being written by process {os.getpid()} on .*\. Wait for it"):
            FolderLock(tmp_path).held().__enter__()
    assert left(tmp_path) == []


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path, gone):
    locked(tmp_path, gone)
    assert FolderLock(tmp_path).holder() is None
    with FolderLock(tmp_path).held() as before:
        assert before == f"process {gone.pid} on {gone.host}"
    assert left(tmp_path) == []


def test_a_later_process_of_the_same_id_does_not_hold_the_lock(tmp_path):
    mine = Process.of(os.getpid())
    if not mine.begun:
        pytest.skip("the system does not say when a process began")
    locked(tmp_path, Process(mine.host, mine.pid, mine.space, "1"))
    with FolderLock(tmp_path).held() as before:
        assert before


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"space": "another"}])
def test_elsewhere_a_process_counts_as_gone_when_it_has_been_silent(tmp_path, gone, elsewhere):
    silent, alive = tmp_path / "silent", tmp_path / "alive"
    for folder, seconds in ((silent, SILENCE + 1), (alive, SILENCE - 30)):
        folder.mkdir()
        locked(folder, Process(**{**vars(gone), **elsewhere}), seconds)
    assert FolderLock(alive).take() is None
    assert FolderLock(silent).take()


def test_a_process_gives_signs_of_life(tmp_path, monkeypatch):
    beats = []
    monkeypatch.setattr(folder_lock, "BEAT", 0.0)
    monkeypatch.setattr(folder_lock.os, "utime", lambda file: beats.append(file))
    lock = FolderLock(tmp_path)
    with lock.held():
        while not beats:
            time.sleep(0)
        assert beats[0] == tmp_path / NAME / f"{lock.token}.json"


def test_who_starts_a_process_takes_the_lock_for_it(tmp_path, monkeypatch):
    parent = FolderLock(tmp_path)
    parent.take()
    assert FolderLock(tmp_path).take() is None
    monkeypatch.setenv(INHERITED, parent.token)
    with FolderLock(tmp_path).held() as before:
        assert before == ""
    assert left(tmp_path) == []


TAKE = """
import sys
from pathlib import Path
from lit_continual.files.folder_lock import FolderLock
print(flush=True)
input()
print(FolderLock(Path(sys.argv[1])).take(), flush=True)
input()
"""


def test_of_many_one_takes_over(tmp_path, gone):
    locked(tmp_path, gone)
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    several = [subprocess.Popen([sys.executable, "-c", TAKE, str(tmp_path)], **pipe) for _ in range(4)]
    for process in several:
        process.stdout.readline()
    for process in several:
        process.stdin.write("\n")
    answers = [process.stdout.readline().strip() for process in several]
    assert answers.count("None") == 3
    for process in several:
        process.communicate("\n")
