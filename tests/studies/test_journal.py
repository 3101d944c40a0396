import os
from pathlib import Path

import pytest

from lit_continual.studies.journal import open_journal
from lit_continual.studies.sweep_file import Metric, Parameter, SweepFile
from lit_continual.studies.trials import Trials

optuna = pytest.importorskip("optuna")


def file(method="grid"):
    rates = {"model.lr": Parameter(values=[0.1, 0.2, 0.3])}
    return SweepFile(method, Metric("dice"), rates, ["lit-continual", "fit", "${args}"], name="sweep")


def finished(trials, number, value):
    folder = trials.cell(number).folder
    (folder / "logs/version_0").mkdir(parents=True)
    (folder / "logs/version_0/metrics.csv").write_text(f"step,dice\n0,{value}\n")
    trials.finish(number)


def state(trials):
    return [(t.state.name, t.params, t.value) for t in trials.study.get_trials()]


def test_a_study_of_an_older_version_is_gone_on_with(tmp_path, monkeypatch):
    old = f"sqlite:///{tmp_path / 'study.db'}"
    monkeypatch.setattr("lit_continual.studies.trials.open_journal", lambda optuna, folder: old)
    before = Trials(file(), tmp_path, 3)
    assert [before.next(), before.next()] == [0, 1]
    before.cell(1)
    finished(before, 0, 0.5)
    expected = state(before)
    monkeypatch.undo()
    after = Trials(file(), tmp_path, 3)
    assert state(after) == expected
    assert [kind for kind, *_ in expected] == ["COMPLETE", "RUNNING", "WAITING"]
    assert list(after.open) == [1]
    finished(after, 1, 0.25)
    assert after.next() == 2
    assert "lr 0.3" in after.cell(2).name
    assert after.next() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.db", "study.log", "trials"]


def test_half_a_line_at_the_end_is_what_a_kill_leaves(tmp_path):
    first = Trials(file(), tmp_path, 3)
    first.next()
    log = tmp_path / "study.log"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"op_code":4,"worke')
    again = Trials(file(), tmp_path, 3)
    assert log.read_bytes().startswith(whole)
    assert [again.next(), again.next(), again.next()] == [1, 2, None]
    assert len(Trials(file(), tmp_path, 3).open) == 3


@pytest.mark.parametrize("damage", [b"{}", b"no JSON", b'{"op_code": 99, "worker_id": "x"}', b"\x80\x04"])
def test_a_damaged_journal_is_refused(tmp_path, damage):
    Trials(file(), tmp_path, 3).next()
    lines = (tmp_path / "study.log").read_bytes().split(b"\n")
    (tmp_path / "study.log").write_bytes(b"\n".join([lines[0], damage, *lines[1:]]))
    with pytest.raises(ValueError, match=r"study.log is damaged \(.*\)\. Restore it, or begin the sweep in another"):
        Trials(file(), tmp_path, 3)


def test_two_parents_open_different_trials(tmp_path):
    one, two = Trials(file(), tmp_path, 3), Trials(file(), tmp_path, 3)
    assert sorted([one.next(), two.next(), one.next()]) == [0, 1, 2]
    assert two.next() is None


def test_a_sweep_that_needs_no_results_is_laid_out_whole(tmp_path):
    trials = Trials(file(), tmp_path, 3)
    assert [cell.folder.name for cell in trials.cells("--x=1")] == ["0", "1", "2"]
    again = Trials(file(), tmp_path, 3)
    assert [cell.name for cell in again.cells("--x=1")] == [cell.name for cell in trials.cells("--x=1")]
    folder = Path(again.cells()[1].folder)
    (folder / "logs/version_0").mkdir(parents=True)
    (folder / "logs/version_0/metrics.csv").write_text("step,dice\n0,0.5\n")
    (folder / "run.json").write_text('{"status": "finished"}')
    again.collect()
    assert [trial.number for trial in again.results()] == [1]
    assert list(again.open) == [0, 2]


def test_the_lock_is_a_file_that_one_alone_can_make(tmp_path):
    lock = tmp_path / "study.log.lock"
    storage = open_journal(optuna, tmp_path)
    storage._backend._lock.acquire()
    assert lock.is_file()
    assert not lock.is_symlink()
    storage._backend._lock.release()
    assert not lock.exists()


@pytest.mark.parametrize("name", ["study.log", "trials/0/logs/version_0/metrics.csv"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name, kind):
    trials = Trials(file(), tmp_path, 3)
    trials.next()
    finished(trials, 0, 0.5)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir() if kind == "folder" else os.mkfifo(tmp_path / name)
    if name == "study.log":
        with pytest.raises(ValueError, match=r"study.log is no file. Restore it, or begin the sweep in another"):
            Trials(file(), tmp_path, 3)
    else:
        assert [trial.logged for trial in Trials(file(), tmp_path, 3).results()] == [{}]


@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy, over what is no database
@pytest.mark.parametrize("kind", ["text", "folder"])
def test_a_damaged_study_of_an_older_version_is_named(tmp_path, kind):
    (tmp_path / "study.db").mkdir() if kind == "folder" else (tmp_path / "study.db").write_text("no database")
    with pytest.raises(ValueError, match=r"study.db is damaged \(.*\)\. Restore it, or begin the sweep in another"):
        Trials(file(), tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_a_lock_that_leads_nowhere_is_not_waited_for(tmp_path):
    Trials(file(), tmp_path, 3).next()
    (tmp_path / "study.log.lock").symlink_to("nowhere")
    assert len(Trials(file(), tmp_path, 3).open) == 1
