"""Cells: many fits, each a process in a folder of its own, that can be killed anywhere and gone on with."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from typing_extensions import Self

from lit_continual.runs.files import read_json
from lit_continual.runs.folder_lock import INHERITED, FolderLock

COMMAND = (sys.executable, "-m", "lit_continual", "fit")
THREADS = 4  # of a cell; a number that depends on how many run at a time would change the last bits of its results
CAPS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PAUSE = 0.2  # seconds between two looks at the processes
PATIENCE = 10.0  # seconds that a process has to end by itself
OUTPUT = "output.txt"


@dataclass(frozen=True)
class Cell:
    """One ``lit-continual fit`` of a stream.

    Attributes:
        name: What it is called in progress and errors.
        folder: Folder of its run.
        arguments: Those of ``fit``, without the folder and ``--resume``.
        after: Folders of the cells that it starts from.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]
    after: tuple[Path, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether its run came to its end, in this call or in another."""
        described = self.folder / "run.json"
        return described.exists() and read_json(described).get("status") == "finished"


class Workers:
    """Processes that run cells, with as many threads each however many there are.

    A process has the lock of its cell's folder as long as it lives. So after a SIGKILL of the parent, which leaves
    its processes alive, the next parent waits for them instead of starting a second one on the same folder, and two
    parents share the cells of one table. A cell that is half done goes on with ``--resume``.

    Args:
        count: How many run at a time.
        command: What runs a cell, before its arguments.
        environment: Of the processes, in place of this one's.

    Raises:
        ValueError: If ``count`` is not positive.
    """

    def __init__(
        self, count: int, command: Sequence[str] = COMMAND, environment: Mapping[str, str] = os.environ
    ) -> None:
        if count < 1:
            raise ValueError(f"`workers` must be at least 1, got {count}.")
        self.count, self.command = count, command
        self.locks: dict[Cell, FolderLock] = {}
        self.jobs: dict[Cell, subprocess.Popen[bytes] | None] = {}  # None: another parent's process runs it
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        caps = dict.fromkeys(CAPS, environment.get("OMP_NUM_THREADS") or str(min(THREADS, cores)))
        self.environment = {"OMP_WAIT_POLICY": "PASSIVE", **environment, **caps}  # spinning threads starve shared cores

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # not in the main thread: then whoever is handles signals
            self._sigterm = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for cell in list(self.jobs):
            self.stop(cell)
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, self._sigterm)

    @property
    def free(self) -> bool:
        """Whether one more cell may start."""
        return len(self.jobs) < self.count

    def start(self, cell: Cell) -> None:
        """Run a cell that is not finished, or wait for who runs it already."""
        cell.folder.mkdir(parents=True, exist_ok=True)
        lock, self.jobs[cell] = FolderLock(cell.folder), None
        if lock.take() is None:
            return
        if cell.finished:
            lock.release()
            return
        here = (f"--trainer.default_root_dir={cell.folder}", "--trainer.enable_progress_bar=false", "--resume")
        with (cell.folder / OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                [*self.command, *cell.arguments, *here],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self.environment, INHERITED: lock.token},
            )
        lock.hand_to(process.pid)
        self.jobs[cell], self.locks[cell] = process, lock

    def ended(self) -> dict[Cell, str]:
        """Cells that came to an end since the last look, with what went wrong; "" where nothing did."""
        found: dict[Cell, str] = {}
        for cell, process in list(self.jobs.items()):
            if process is None and not cell.finished:
                self.start(cell)  # takes over if the other's process is gone
            elif process is None or process.poll() is not None:
                self._forget(cell)
                found[cell] = "" if cell.finished else _reason(cell, process)
        return found

    def stop(self, cell: Cell) -> None:
        """End the process of a cell before its time; another parent's goes on."""
        process = self.jobs[cell]
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._forget(cell)

    def _forget(self, cell: Cell) -> None:
        del self.jobs[cell]
        if cell in self.locks:
            self.locks.pop(cell).release()


def run_cells(cells: Sequence[Cell], workers: Workers, pause: float = PAUSE) -> Iterator[tuple[Cell, str]]:
    """Run the cells that are not finished, each when those that it starts from are.

    Args:
        cells: All cells; those that another starts from are among them.
        workers: What runs them.
        pause: Seconds between two looks.

    Yields:
        Each cell that ended, with what went wrong, "" if nothing did. A cell that fails takes those with it that start
        from it; the others run.
    """
    waiting = [cell for cell in cells if not cell.finished]
    finished = {cell.folder for cell in cells} - {cell.folder for cell in waiting}
    failed: dict[Path, str] = {}  # folder -> name of the cell that is to blame
    while waiting or workers.jobs:
        for cell in list(waiting):
            if blamed := next((failed[folder] for folder in cell.after if folder in failed), None):
                waiting.remove(cell)
                failed[cell.folder] = blamed
                yield cell, f"not begun, since it starts from {blamed}"
            elif workers.free and finished.issuperset(cell.after):
                waiting.remove(cell)
                workers.start(cell)
        for cell, error in workers.ended().items():
            if error:
                failed[cell.folder] = cell.name
            else:
                finished.add(cell.folder)
            yield cell, error
        time.sleep(pause if workers.jobs else 0)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End this process in the way that also ends what it started."""
    sys.exit(128 + number)


def _reason(cell: Cell, process: subprocess.Popen[bytes] | None) -> str:
    """Why a cell failed: the last line of its output, and where the rest is."""
    output, code = cell.folder / OUTPUT, process.returncode if process is not None else 0
    lines = [line.strip() for line in output.read_text("utf-8", "replace").splitlines() if line.strip()]
    said = lines[-1].removeprefix("lit-continual: error: ").rstrip(".") if lines else f"exit code {code}"
    if code < 0:
        said = f"its process was ended by {signal.Signals(-code).name}"
    return f"{said} (all output: {output})"
