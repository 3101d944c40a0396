import contextlib
import os
import signal

import pytest

from lit_continual import __version__
from lit_continual.studies.cell import Cell
from lit_continual.studies.cells import Workers
from lit_continual.studies.fork_server import POSSIBLE, ForkServer
from tests.processes import wait_until

pytestmark = [
    pytest.mark.usefixtures("deadline"),
    pytest.mark.skipif(not POSSIBLE, reason="forks on Linux only"),
]
LITTLE = ("lit_continual.files.whole_files",)  # the rest is imported by the fork


@pytest.fixture
def server():
    with contextlib.closing(ForkServer(os.environ, LITTLE)) as server:
        yield server


def test_a_fork_has_arguments_output_and_exit_code_of_its_own(server, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("before\n")
    one = server.start(["--version"], os.environ, first)
    two = server.start(["nothing"], os.environ, second)
    assert (one.wait(600), two.wait(600)) == (0, 2)
    assert first.read_text() == f"lit-continual {__version__}\n"
    before, said = second.read_text().splitlines()
    assert before == "before"
    assert said.startswith("lit-continual: error: ")


def test_forks_outlive_what_has_forked_them(tmp_path):
    server = ForkServer(os.environ, LITTLE)
    fork = server.start(["report", "--help"], os.environ, tmp_path / "output")
    server.close()
    assert fork.process.is_orphan or fork.process.is_gone
    wait_until(lambda: fork.process.is_gone)
    assert "--output" in (tmp_path / "output").read_text()
    assert fork.poll() == 1  # nobody knows


def test_a_server_that_cannot_import_leaves_it_to_processes(tmp_path):
    with contextlib.closing(ForkServer(os.environ, ["lit_continual.nothing"])) as server:
        assert server.start(["--version"], os.environ, tmp_path / "output") is None
        assert server.start(["--version"], os.environ, tmp_path / "output") is None


@pytest.mark.slow
@pytest.mark.parametrize("modules", [LITTLE, ()], ids=["forked", "new"])
def test_a_cell_fails_alike(modules, tmp_path):
    cell = Cell("one", tmp_path / "one", ("--config=none.yaml",))
    with Workers(1, modules=modules) as workers:
        workers.start(cell)
        (error,) = wait_until(workers.ended, 500).values()
    assert "none.yaml" in error
    assert error.endswith(f"(all output: {cell.folder / 'output.txt'})")
    assert not list(cell.folder.glob(".running*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_fork_that_is_ended_is_told(tmp_path, number):
    cell = Cell("one", tmp_path / "one", ("--config=none.yaml",))
    with Workers(1, modules=LITTLE) as workers:
        workers.start(cell)
        os.kill(workers.jobs[cell].pid, number)
        (error,) = wait_until(workers.ended).values()
    assert f"{number.name}" in error


def test_whoever_leaves_ends_the_forks(tmp_path):
    cell = Cell("one", tmp_path / "one", ("--config=none.yaml",))
    with Workers(1, modules=LITTLE) as workers:
        workers.start(cell)
        process = workers.jobs[cell].process
    assert process.is_gone
