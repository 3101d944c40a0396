"""The same small table, however it is run: the same bits."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lit_continual.cli import main
from tests.same_run import assert_same_run

START = "{prepare.source}/experiences/0_ball/model.ckpt"
LWF = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}


@pytest.fixture
def table(stream, tmp_path, monkeypatch):
    """Write a table of three cells, one of which starts from another, and return what runs it into a folder."""
    stream(name="fine")
    stream(LWF, name="lwf")
    box = [{"name": "box", "classes": {"box": 2}, "data": {"split": {"part": [1, 2]}}}]
    described = {
        "options": {"trainer.max_epochs": 1, "data.split.fractions": [0.5, 0.0, 0.5]},
        "seeds": [0],
        "prepare": {"source": {"config": "fine.yaml"}},
        "methods": {
            "fine-tuning": {"config": "fine.yaml"},
            "from source": {"config": "lwf.yaml", "options": {"stream.start": START, "stream.experiences": box}},
        },
        "columns": {"new": {"experience": "box"}},
    }
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)

    def run(*options, cluster="local", then=lambda: None):
        (tmp_path / "table.yaml").write_text(yaml.safe_dump({**described, "slurm": {"cluster": cluster}}))
        main(["compare", "--config=table.yaml", "--output=out", *options])
        then()
        return Path("out").rename(tmp_path / f"{len(list(tmp_path.glob('*out')))}_out")  # where a start is the same

    return run


def runs_of(folder):
    return sorted(path.parent.relative_to(folder) for path in Path(folder).glob("*/*/*/run.json"))


def by(*program):
    """Give the commands of each stage to a program, which gets them one a line or, for xargs, ended by zeros."""

    def give():
        for stage in (1, 2):
            lines = Path(f"out/commands/stage_{stage:02}.txt").read_bytes()
            given = lines.replace(b"\n", b"\0") if program[0] == "xargs" else lines
            subprocess.run(program, input=given, check=True)

    return give


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit lets its processes go
def test_a_table_ends_with_the_same_bits_however_it_is_run(table, tmp_path, capsys):
    alone = table("--new-processes")
    found = {"forked": table("--workers=2")}
    found["xargs"] = table("--launcher=print", then=by("xargs", "-0", "-P", "2", "-n", "1", "sh", "-c"))
    if shutil.which("parallel"):
        found["parallel"] = table("--launcher=print", then=by("parallel", "-j2"))
    if importlib.util.find_spec("submitit"):
        found["jobs"] = table("--launcher=slurm", "--workers=2")
        if shutil.which("sbatch"):  # see .github/slurm.sh
            found["slurm"] = table("--launcher=slurm", cluster="slurm")
    assert len(runs_of(alone)) == 3
    for folder in found.values():
        assert runs_of(folder) == runs_of(alone)
        for run in runs_of(alone):
            assert_same_run(folder / run, alone / run)
            assert json.loads((folder / run / "run.json").read_text())["threads"] == 1
    assert "in which the runs trained for" in capsys.readouterr().out
