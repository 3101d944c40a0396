import re
import subprocess
import sys
from pathlib import Path

import pytest

from lit_continual.studies.cell import Cell
from lit_continual.studies.printed import write_commands

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")


@pytest.fixture
def cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = Cell("source", tmp_path / "source", ("--x=it's $HOME",))
    target = Cell("target", tmp_path / "target", (), (source.folder,))
    return [
        source,
        Cell("other", tmp_path / "other", ()),
        target,
        Cell("last", tmp_path / "last", (), (target.folder,)),
    ]


def test_stages_come_one_after_another(cells, tmp_path):
    stages = write_commands(cells, tmp_path / "commands", "2")
    assert [path.name for path in stages] == ["stage_01.txt", "stage_02.txt", "stage_03.txt"]
    assert [len(path.read_text().splitlines()) for path in stages] == [2, 1, 1]
    rows = [line.split("\t") for line in (tmp_path / "commands/jobs.tsv").read_text().splitlines()]
    assert [(number, after) for number, _, after in rows] == [("1", ""), ("2", ""), ("3", "1"), ("4", "3")]
    assert rows[0][1] == stages[0].read_text().splitlines()[0]


def test_what_is_finished_is_left_out(cells, tmp_path):
    write_commands(cells, tmp_path / "commands", "2")
    cells[0].folder.mkdir()
    (cells[0].folder / "run.json").write_text('{"status": "finished"}')
    stages = write_commands(cells, tmp_path / "commands", "2")
    assert [len(path.read_text().splitlines()) for path in stages] == [2, 1]
    assert [path.name for path in tmp_path.glob("commands/stage*03*")] == []


def test_an_option_that_does_not_fit_a_line_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one: an option has a line break or a tab in it"):
        write_commands([Cell("one", tmp_path, ("--x=a\nb",))], tmp_path / "commands", "2")


def loop(program):
    """What the documentation says about a queue."""
    page = (Path(__file__).parents[2] / "docs/clusters.md").read_text(encoding="utf-8")
    return next(code for code in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) if f"{program} " in code)


@pytest.mark.parametrize(
    ("program", "waits"),
    [("bsub", ["-w done(table_1)", "-w done(table_3)"]), ("qsub", ["afterok:id_1", "afterok:id_3"])],
)
def test_the_loops_of_the_documentation_feed_queues(cells, tmp_path, program, waits):
    """A program that stands in for the queue's notes its arguments and what it was given."""
    fake = tmp_path / "bin" / program
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@" >> calls\ncat >> calls\nprintf id_%s "$(grep -c table_ calls)"\n')
    fake.chmod(0o755)
    write_commands(cells, tmp_path / "runs/tables/cluster/commands", "2")
    subprocess.run(["sh", "-c", f'PATH="{fake.parent}:$PATH"\n{loop(program)}'], check=True, cwd=tmp_path)
    calls = (tmp_path / "calls").read_text()
    assert calls.count("exec") == 4
    assert [wait for wait in waits if wait not in calls] == []
    assert "it'\"'\"'s $HOME" in calls
