"""Cells that run here: each a process, that can be killed anywhere and gone on with."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from lit_continual.files.folder_aside import made_folder
from lit_continual.files.folder_lock import INHERITED, FolderLock
from lit_continual.stream import signals
from lit_continual.studies.cell import COMMAND, OUTPUT, Cell, threads_of
from lit_continual.studies.devices import VISIBLE, devices_of, visible_devices
from lit_continual.studies.fork_server import POSSIBLE, Forked, ForkServer
from lit_continual.studies.launcher import Launcher

PAUSE = 0.2  # seconds between two looks at the processes
OTHERS = 2.0  # and at the cells that others run
PATIENCE = 10.0  # seconds that a process has to end by itself


class Workers:
    """Processes that run cells, with as many threads and GPUs each however many there are.

    A process has the lock of its cell's folder as long as it lives. So after a SIGKILL of the parent, which leaves
    its processes alive, the next parent waits for them instead of starting a second one on the same folder, and two
    parents share the cells of one table: what another parent runs takes no room here. A cell that is half done goes on
    with ``--resume``.

    Args:
        count: How many run at a time.
        command: What runs a cell, before its arguments.
        environment: Of the processes, in place of this one's.
        gpus: How many a cell sees, of those that this process does; 0 for what this process sees.
        modules: What a process imports from which those of the cells are forked, on Linux; without, or with another
            command, each imports for itself.

    Raises:
        ValueError: If ``count`` is not positive, or ``gpus`` negative.
    """

    waits = False

    def __init__(
        self,
        count: int,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] = os.environ,
        gpus: int = 1,
        modules: Sequence[str] = (),
    ) -> None:
        if count < 1:
            raise ValueError(f"`workers` must be at least 1, got {count}.")
        if gpus < 0:
            raise ValueError(f"`gpus` must be at least 0, got {gpus}.")
        self.count, self.command, self.gpus, self.modules = count, command, gpus, modules
        self.given, self.threads = dict(environment), threads_of(environment)
        self.locks: dict[Cell, FolderLock] = {}
        self.slots: dict[Cell, int] = {}
        self.jobs: dict[Cell, subprocess.Popen[bytes] | Forked | None] = {}  # None: another parent's process runs it
        self.left: set[Cell] = set()  # of a parent that is gone
        self._looked = float("-inf")

    def __enter__(self) -> Self:
        self._signals = signals.handled("run the same again")  # unless whoever has entered this handles them
        self._signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            for process in self.jobs.values():  # all of them before any is waited for, which a second Ctrl-C ends
                if process is not None and process.poll() is None:
                    process.terminate()
            for cell in list(self.jobs):
                self.stop(cell)
            if "_server" in vars(self) and self._server is not None:
                self._server.close()
        finally:
            self._signals.__exit__(kind, error, at)

    @property
    def free(self) -> bool:
        """Whether one more cell may start."""
        return len(self.slots) + len(self.left) < self.count

    def start(self, cell: Cell) -> None:
        """Run a cell that is not finished, or wait for who runs it already."""
        made_folder(cell.folder)
        lock, self.jobs[cell] = FolderLock(cell.folder), None
        self.left.discard(cell)
        if lock.take() is None:
            if (holder := lock.holder()) is not None and holder.is_orphan:
                self.left.add(cell)
            return
        if cell.finished:
            lock.release()
            return
        self.slots[cell] = next(slot for slot in count() if slot not in self.slots.values())
        self.locks[cell] = lock
        self.jobs[cell] = process = self._process(cell, lock.token)  # at once, so that what fails next ends it
        lock.hand_to(process.pid)

    def _process(self, cell: Cell, token: str) -> subprocess.Popen[bytes] | Forked:
        environment = {**cell.environment(self.given, self.threads), INHERITED: token}
        if self.gpus and self._devices:
            environment[VISIBLE] = devices_of(self.slots[cell], self._devices, self.gpus)
        options, output = cell.options(self.given), cell.folder / OUTPUT
        if self._server is not None and (forked := self._server.start(["fit", *options], environment, output)):
            return forked
        with output.open("ab") as file:
            return subprocess.Popen(
                [*self.command, *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @cached_property
    def _devices(self) -> list[str]:
        return visible_devices(self.given)

    @cached_property
    def _server(self) -> ForkServer | None:
        environment = Cell("", Path(), ()).environment(self.given, self.threads)
        forks = POSSIBLE and self.modules and tuple(self.command) == COMMAND
        return ForkServer(environment, self.modules) if forks else None

    def ended(self) -> dict[Cell, str]:
        """Cells that came to an end since the last look, with what went wrong; "" where nothing did."""
        found: dict[Cell, str] = {}
        look = time.monotonic() >= self._looked + OTHERS
        for cell, process in list(self.jobs.items()):
            if process is None and look:
                self._looked = time.monotonic()
                if cell.finished:
                    found[cell] = ""
                elif self.free or cell in self.left:
                    self.start(cell)  # takes over if the other's process is gone
            elif process is not None and process.poll() is not None:
                found[cell] = "" if cell.finished else reason(cell, process.returncode or 0)
        for cell in found:
            self._forget(cell)
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
        self.left.discard(cell)
        self.slots.pop(cell, None)
        if cell in self.locks:
            self.locks.pop(cell).release()


def run_cells(cells: Sequence[Cell], launcher: Launcher, pause: float = PAUSE) -> Iterator[tuple[Cell, str]]:
    """Run the cells that are not finished, each when those that it starts from are.

    Args:
        cells: All cells; those that another starts from are among them, and before it.
        launcher: What runs them.
        pause: Seconds between two looks.

    Yields:
        Each cell that ended, with what went wrong, "" if nothing did. A cell that fails takes those with it that start
        from it; the others run.
    """
    waiting = [cell for cell in cells if not cell.finished]
    finished = {cell.folder for cell in cells} - {cell.folder for cell in waiting}
    failed: dict[Path, str] = {}  # folder -> name of the cell that is to blame
    while waiting or launcher.jobs:
        begun = launcher.jobs if launcher.waits else ()
        for cell in [*begun, *waiting]:
            if blamed := next((failed[folder] for folder in cell.after if folder in failed), None):
                if cell in waiting:
                    waiting.remove(cell)
                else:
                    launcher.stop(cell)
                failed[cell.folder] = blamed
                yield cell, f"not begun, since it starts from {blamed}"
            elif cell in waiting and launcher.free and (launcher.waits or finished.issuperset(cell.after)):
                waiting.remove(cell)
                launcher.start(cell)
        for cell, error in launcher.ended().items():
            if error:
                failed[cell.folder] = cell.name
            else:
                finished.add(cell.folder)
            yield cell, error
        time.sleep(pause if launcher.jobs else 0)


def reason(cell: Cell, code: int = 0) -> str:
    """Why a cell failed: the last line of its output, and where the rest is."""
    output = cell.folder / OUTPUT
    text = output.read_text("utf-8", "replace") if output.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = lines[-1].removeprefix("lit-continual: error: ").rstrip(".") if lines else f"exit code {code}"
    if code < 0:
        said = f"its process was ended by {signal.Signals(-code).name}"
    return f"{said} (all output: {output})"
