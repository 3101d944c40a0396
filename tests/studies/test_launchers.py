"""The same small table, however it is run: the same bits."""

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
        "slurm": {"cluster": "local", "hours": 0.1},
    }
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)

    def run(name, *options):
        main(["compare", "--config=table.yaml", f"--output={name}", *options])

    return run


def runs_of(folder):
    return sorted(path.parent.relative_to(folder) for path in Path(folder).glob("*/*/*/run.json"))


def assert_same_table(folder, expected):
    """Hold the runs of two tables against each other; a start names a folder of its own table."""
    assert len(runs_of(expected)) == 3
    assert runs_of(folder) == runs_of(expected)
    for name in runs_of(expected):
        config = (folder / name / "config.yaml").read_text()
        (folder / name / "config.yaml").write_text(config.replace(f"{folder}/", f"{expected}/"))
        assert_same_run(folder / name, expected / name)


@pytest.mark.slow
def test_a_table_ends_with_the_same_bits_however_it_is_run(table, tmp_path, capsys):
    table("alone", "--new-processes")
    table("forked", "--workers=2")
    table("printed", "--launcher=print")
    for stage in (1, 2):
        lines = Path(f"printed/commands/stage_{stage}.txt").read_bytes().replace(b"\n", b"\0")
        subprocess.run(["xargs", "-0", "-P", "2", "-n", "1", "sh", "-c"], input=lines, check=True)
    if shutil.which("parallel"):
        table("parallel", "--launcher=print")
        for stage in (1, 2):
            subprocess.run(["parallel", "-j2", "-a", f"parallel/commands/stage_{stage}.txt"], check=True)
    pytest.importorskip("submitit", reason="needs submitit, the extra slurm")
    table("jobs", "--launcher=slurm", "--workers=2")
    for folder in ("forked", "printed", "parallel", "jobs"):
        if Path(folder).exists():
            assert_same_table(Path(folder), Path("alone"))
    assert "in which the runs trained for" in capsys.readouterr().out
    for folder in ("alone", "forked", "printed", "jobs"):
        assert {json.loads((folder / run / "run.json").read_text())["threads"] for run in runs_of(folder)} == {1}
