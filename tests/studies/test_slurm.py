import json
import os
import re
import signal
import sys
import threading

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_continual.studies.cell import Cell
from lit_continual.studies.cell_job import CellJob
from lit_continual.studies.cells import run_cells
from lit_continual.studies.slurm import Slurm, SlurmJobs, read_slurm
from tests.processes import wait_until

pytest.importorskip("submitit", reason="needs submitit, the extra slurm")
pytestmark = [
    pytest.mark.usefixtures("deadline"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs a shell"),
]

SBATCH = """
number=$(($(ls scripts | wc -l) + 1))
cp "$1" scripts/$number
echo "Submitted batch job $number"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Programs that stand in for SLURM's: they keep the scripts, and `queue` has the jobs that have not ended."""
    for name, text in {
        "sbatch": SBATCH,
        "squeue": "cat queue",
        "srun": "",
        "scancel": 'echo "$@" >> cancelled',
    }.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "queue").write_text("1\n1_0\n1_1\n2\n3\n")
    monkeypatch.setattr("lit_continual.studies.slurm.LOOK", 0.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def jobs(**options):
        slurm = {"hours": 10, "gpus": 1, "partition": "gpu", "sbatch": {"mem": "32G", "mail-type": "FAIL"}, **options}
        return SlurmJobs(tmp_path / "slurm", Slurm(**slurm), "3", options.pop("count", None), "table")

    return jobs


@pytest.fixture
def cells(tmp_path):
    source, other = (Cell(name, tmp_path / name, (f"--x={name}",)) for name in ("source", "other"))
    target = Cell("target", tmp_path / "target", (), (source.folder, other.folder))
    return [source, other, target, Cell("last", tmp_path / "last", (), (target.folder,))]


def finish(cell):
    cell.folder.mkdir(exist_ok=True)
    (cell.folder / "run.json").write_text('{"status": "finished"}')


def options(tmp_path, number):
    script = (tmp_path / "scripts" / str(number)).read_text()
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.M))


def test_jobs_are_arrays_that_come_after_those_that_they_start_from(cluster, cells, tmp_path):
    with cluster() as jobs:
        for cell in cells:
            jobs.start(cell)
        assert jobs.ended() == {}
        assert len(list((tmp_path / "scripts").iterdir())) == 3
        first, target, last = (options(tmp_path, number) for number in (1, 2, 3))
        assert first["array"].startswith("0-1")
        asked = {"time": "600", "gpus-per-node": "1", "partition": "gpu", "mem": "32G", "mail-type": "FAIL"}
        assert {**asked, "cpus-per-task": "3", "requeue": "", "signal": "USR2@90"}.items() <= first.items()
        assert "dependency" not in first
        assert (target["dependency"], last["dependency"]) == ("afterok:1_0:1_1", "afterok:2")
        assert target["kill-on-invalid-dep"] == "yes"
        finish(cells[0])
        assert jobs.ended() == {cells[0]: ""}
        for cell in cells[1:]:
            finish(cell)
        assert jobs.ended() == dict.fromkeys(cells[1:], "")


def test_the_next_command_follows_the_jobs_of_the_last(cluster, cells, tmp_path, capsys):
    def begin():
        with cluster() as jobs:
            for cell in cells[:2]:
                jobs.start(cell)
            jobs.ended()

    begin()
    assert "2 jobs go on (1_0, 1_1): the same command follows them" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "queue").write_text("1_0\n")
    begin()
    assert len(list((tmp_path / "scripts").iterdir())) == 2  # the one that has ended, alone
    assert "array" not in options(tmp_path, 2)


def test_a_job_that_fails_takes_those_with_it_that_wait_for_it(cluster, cells, tmp_path):
    with cluster() as jobs:
        finish(cells[1])
        (tmp_path / "queue").write_text("2\n3\n")
        found = dict(run_cells(cells, jobs, 0))
    assert re.match(r"job 1 has ended, see .*1_0_log.err", found[cells[0]])
    assert found[cells[2]] == found[cells[3]] == "not begun, since it starts from source"
    assert (tmp_path / "cancelled").read_text().split() == ["2", "3"]


def test_so_many_workers_so_many_jobs(cluster, cells):
    with SlurmJobs(cells[0].folder.parent / "slurm", Slurm(), "3", 1, "table") as jobs:
        assert jobs.free
        jobs.start(cells[0])
        assert not jobs.free


COMMAND = """
import sys, time
from pathlib import Path
begun = Path(sys.argv[1])
if begun.exists():
    sys.exit(0)
begun.touch()
time.sleep(120)
"""


class QueuedAgainError(Exception):
    pass


def test_a_job_that_is_preempted_ends_its_command_and_gives_it_again(tmp_path):
    job, command = CellJob(), [sys.executable, "-c", COMMAND, str(tmp_path / "begun")]

    def preempt(*_):
        raise QueuedAgainError(job.checkpoint(command, tmp_path))

    def strike():
        wait_until((tmp_path / "begun").exists)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, preempt)  # as submitit does
    try:
        threading.Thread(target=strike).start()
        with pytest.raises(QueuedAgainError) as queued:
            job(command, tmp_path)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert job.process.poll() == -signal.SIGTERM
    queued.value.args[0].result()  # runs, and ends with 0


def test_a_command_that_fails_fails_its_job(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3"):
        CellJob()([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def test_a_job_whose_cell_is_finished_has_not_failed(cells):
    finish(cells[0])
    CellJob()([sys.executable, "-c", "raise SystemExit(3)"], cells[0].folder)
    with pytest.raises(SystemExit) as ended:  # of a job whose time is over just as it ends
        CellJob().checkpoint([], cells[0].folder)
    assert ended.value.code == 0


def test_cells_after_one_that_ended_at_its_time_limit_are_submitted_again(cluster, cells, tmp_path):
    with cluster() as jobs:
        for cell in cells:
            jobs.start(cell)
        jobs.ended()
        (tmp_path / "queue").write_text("")  # `other` failed by its job's state, and SLURM cancels what comes after
        for cell in cells[:2]:
            finish(cell)
        assert jobs.ended() == dict.fromkeys(cells[:2], "")
        assert jobs.ended() == {}
        (tmp_path / "queue").write_text("4\n5\n")
        assert jobs.ended() == {}
        assert "dependency" not in options(tmp_path, 4)
        assert options(tmp_path, 5)["dependency"] == "afterok:4"
        (tmp_path / "queue").write_text("")
        jobs.ended()
        assert re.match("job 4 has ended", jobs.ended()[cells[2]])  # and not a third time


def test_what_is_wrong_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MisconfigurationException, match="There is no SLURM on this machine"):
        SlurmJobs(tmp_path, Slurm(), "4", None, "table")
    with pytest.raises(ValueError, match=r"table.yaml, `slurm`: Option 'hous' is not accepted"):
        read_slurm({"hous": 3}, "table.yaml")
    with pytest.raises(ValueError, match=r"table.yaml, `slurm`: `hours` must be above 0, got 0"):
        read_slurm({"hours": 0}, "table.yaml")
    with pytest.raises(ValueError, match="line break in 'comment'"):
        read_slurm({"sbatch": {"comment": "a\nrm"}}, "table.yaml")


DAMAGED = ["[]", "3", "", "{", '{"a": 1}', '{"a": null}', '{"a": ["1"]}', "\ud800", "[" * 10**5]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_list_of_jobs_is_refused(cluster, tmp_path, content):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/jobs.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=r"jobs\.json (is not valid JSON|does not name the jobs of cells).*\.$"):
        cluster()


def test_a_list_of_jobs_names_only_those_that_are_queued(cluster, cells, tmp_path):
    (tmp_path / "slurm").mkdir()
    known = {str(cell.folder): job for cell, job in zip(cells, ("../../x", "99", "1; rm", "3"), strict=True)}
    (tmp_path / "slurm/jobs.json").write_text(json.dumps(known))
    jobs = cluster()
    for cell in cells:
        jobs.start(cell)
    assert [job and job.job_id for job in jobs.jobs.values()] == [None, None, None, "3"]
