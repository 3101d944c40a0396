import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from lit_continual.cli import main
from lit_continual.files.whole_files import is_first_rank
from lit_continual.studies.cell import Cell
from lit_continual.studies.cells import Workers
from lit_continual.studies.devices import devices_of, visible_devices

JOB = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "table", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"}
JOB |= {"SLURM_NTASKS_PER_NODE": "4", "SLURM_NODEID": "0", "SLURM_NNODES": "2", "SLURM_TASKS_PER_NODE": "4"}


def test_a_cell_is_no_rank_of_the_job_that_it_runs_in(tmp_path):
    given = {**JOB, "PATH": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "JSM_NAMESPACE_SIZE": "4"}
    found = Cell("one", tmp_path, ()).environment(given, "4")
    assert {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "bash", "PATH": "x"}.items() <= found.items()
    assert not found.keys() & {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS_PER_NODE"}
    assert not found.keys() & {"RANK", "WORLD_SIZE", "LOCAL_RANK", "JSM_NAMESPACE_SIZE", "SLURM_TASKS_PER_NODE"}
    assert "SLURM_JOB_NAME" not in Cell("one", tmp_path, ()).environment({"PATH": "x"}, "4")


def test_tracking_is_offline_in_a_group_unless_the_user_says_otherwise(tmp_path):
    one = Cell("one", tmp_path, (), group="sweep")
    assert one.environment({}, "4")["WANDB_MODE"] == "offline"
    assert one.environment({"WANDB_MODE": "online"}, "4")["WANDB_MODE"] == "online"
    assert one.environment({}, "4")["WANDB_RUN_GROUP"] == "sweep"
    assert "WANDB_MODE" not in Cell("one", tmp_path, ()).environment({}, "4")


def test_a_command_says_no_secret_and_is_read_back_by_a_shell(tmp_path):
    one = Cell("one", tmp_path / "it's", ("--a=${envvar:TOKEN} $HOME `id`", '--b=["x"]'), group="a b")
    words = shlex.split(shlex.join(one.command("2")))
    assert words[3:] == ["cell", f"{tmp_path}/it's", "--threads=2", "--group=a b", "--", *one.arguments]
    assert one.options({"TOKEN": "secret"})[0] == "--a=secret $HOME `id`"


NVIDIA_SMI = """#!/bin/sh
cat <<END
GPU 0: A (UUID: GPU-aa)
GPU 1: B (UUID: GPU-bb)
  MIG 1g.5gb Device 0: (UUID: MIG-b0)
  MIG 1g.5gb Device 1: (UUID: MIG-b1)
END
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_gpus_are_counted_without_cuda(tmp_path):
    assert visible_devices({"PATH": str(tmp_path)}) == []
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert visible_devices(path) == ["0", "MIG-b0", "MIG-b1"]
    assert visible_devices({**path, "CUDA_VISIBLE_DEVICES": "3"}) == ["3"]


def test_a_run_sees_as_many_gpus_however_many_workers_there_are():
    assert devices_of(0, ["4"], 2) == "4"  # too few: Lightning says so
    assert {devices_of(slot, list("012"), 2) for slot in range(4)} == {"0,1"}


@pytest.fixture
def finished(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished"}))
    return tmp_path


QUICK = """
import sys
from lit_continual.cli import main
main(["cell", sys.argv[1], "--", "--config=none.yaml"])
print(*(name in sys.modules for name in ("lightning", "torch")))
"""


def test_a_finished_cell_does_nothing_and_imports_little(finished):
    done = subprocess.run([sys.executable, "-c", QUICK, finished], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr
    assert [path.name for path in finished.iterdir()] == ["run.json"]


@pytest.mark.slow
def test_a_cell_inside_the_job_of_a_cluster_trains(stream, tmp_path, monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lightning_utilities.core.rank_zero.rank_zero_only.rank", 0)
    folder = tmp_path / "cell"
    main(["cell", str(folder), "--threads=3", "--", f"--config={stream()}", "--trainer.max_epochs=1"])
    run = json.loads((folder / "run.json").read_text())
    assert (run["status"], run["threads"]) == ("finished", 3)
    assert os.environ["SLURM_NTASKS"] == "4"  # what is not a cell is left alone
    assert is_first_rank()


def test_a_cell_that_fails_ends_with_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FIT_LOG", str(tmp_path / "log"))
    fit = [sys.executable, str(Path(__file__).parent / "fake_fit.py")]
    monkeypatch.setattr("lit_continual.studies.cell_command.Workers", partial(Workers, command=fit))
    with pytest.raises(SystemExit, match=r"There is no such thing.*all output: .*the same command goes on\."):
        main(["cell", str(tmp_path / "cell"), "--", "--fail=1"])
