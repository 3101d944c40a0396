"""One folder, one process: a lock that any file system has, and that does not outlive its process."""

import contextlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from lit_continual.files.folder_aside import made_folder
from lit_continual.files.plain_data import require_types, types_of
from lit_continual.files.process import Process
from lit_continual.files.whole_files import is_first_rank, parsed_json, read_text, unwritten

NAME = ".running"
INHERITED = "LIT_CONTINUAL_LOCK"  # token of a lock that the process which started this one has taken for it
BEAT = 30.0  # seconds between two signs of life
SILENCE = 300.0  # seconds without one after which a process on another machine counts as gone


def alone(folder: Path) -> contextlib.AbstractContextManager[str]:
    """Keep other processes out of a folder for a block, which yields who was found dead in it, "" for nobody.

    Of a distributed run the first rank does.

    Raises:
        ValueError: If another process is at work in it.
    """
    return FolderLock(folder).held() if is_first_rank() else contextlib.nullcontext("")


class FolderLock:
    """Says that a process writes into a folder: a folder in it, with a file that names the process.

    It is made aside and renamed, which only one process can do, on any file system. The file is touched as long as the
    process lives; the lock of one that is gone is taken over.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self.token = ""
        self._over = threading.Event()

    def holder(self) -> Process | None:
        """The process that holds the lock; ``None`` if there is none, or it is gone."""
        file = self._file()
        return None if file is None or self._is_stale(file) else _read(file)

    def take(self, pid: int | None = None) -> str | None:
        """Take the lock, or that of a process that is gone, or the one that was taken for this process.

        Args:
            pid: Of the process to take it for, on this machine; by default this one.

        Returns:
            ``None`` if somebody else holds it; "" if it was free, and otherwise whose it was.
        """
        mine, found = Process.of(os.getpid() if pid is None else pid), ""
        while True:
            file = self._file()
            if file is not None and pid is None and file.stem == os.environ.get(INHERITED):
                self.token = file.stem
                self.hand_to(os.getpid())
                return ""
            if file is not None and not self._is_stale(file):
                return None
            if file is not None:
                found = _name(_read(file))
                file.unlink(missing_ok=True)
            if self._make(mine):
                return found

    def hand_to(self, pid: int) -> None:
        """Name another process on this machine as the one that holds the lock."""
        file = self.path / f"{self.token}.json"
        aside = self.folder / f"{NAME}-{uuid.uuid4().hex}"
        _write(aside, Process.of(pid))
        with contextlib.suppress(OSError):  # it has ended, and its lock is gone
            os.utime(file)
            os.replace(aside, file)
        aside.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the lock back, if it was taken and nobody has taken it over."""
        self._over.set()
        if self.token:
            (self.path / f"{self.token}.json").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's by now
                self.path.rmdir()
            self.token = ""

    @contextlib.contextmanager
    def held(self) -> Iterator[str]:
        """Hold the lock in a block, with signs of life; yield whose it was before, if it was taken over.

        Raises:
            ValueError: If another process holds it.
        """
        is_new = not self.folder.exists()
        made_folder(self.folder)
        before = self.take()
        if before is None:
            raise self._held_by(self.holder())
        self._over.clear()
        threading.Thread(target=self._beat, args=(self.path / f"{self.token}.json",), daemon=True).start()
        try:
            yield before
        finally:
            self.release()
            if is_new:  # and stayed empty
                with contextlib.suppress(OSError):
                    self.folder.rmdir()

    def require_free(self) -> None:
        """Check that no process holds the lock.

        Raises:
            ValueError: If one does.
        """
        if (holder := self.holder()) is not None:
            raise self._held_by(holder)

    def _held_by(self, process: Process | None) -> ValueError:
        return ValueError(
            f"{self.folder} is being written by {_name(process)}. Wait for it or end it, or choose another folder; a"
            f" process of another machine counts as gone after {SILENCE / 60:.0f} minutes of silence."
        )

    def _beat(self, file: Path) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(file)

    def _file(self) -> Path | None:
        with contextlib.suppress(OSError):
            return next(self.path.glob("*.json"), None)
        return None

    def _is_stale(self, file: Path) -> bool:
        process = _read(file)
        if process is not None and process.is_here:
            return process.is_gone
        try:
            return time.time() - file.stat().st_mtime > SILENCE
        except FileNotFoundError:
            return True

    def _make(self, process: Process) -> bool:
        """Make the lock; return whether nobody else was faster."""
        token = uuid.uuid4().hex
        aside = self.folder / f"{NAME}-{token}"
        try:
            aside.mkdir()
            _write(aside / f"{token}.json", process)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise unwritten(self.path, error) or error from error
        try:
            if os.name == "nt":  # where nothing is renamed to what is there, be it empty
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            aside.rename(self.path)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            if not self.path.is_dir():
                raise
            return False
        self.token = token
        return True


def _write(path: Path, process: Process) -> None:
    path.write_text(json.dumps(asdict(process)), encoding="utf-8")


def _read(path: Path) -> Process | None:
    try:
        return Process(**require_types(parsed_json(read_text(path)), types_of(Process)))
    except (OSError, ValueError, TypeError):
        return None


def _name(process: Process | None) -> str:
    return "another process" if process is None else f"process {process.pid} on {process.host}"
