"""The files of a cache, which several processes share: what nobody uses is removed where room is needed."""

import contextlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from lit_continual.files.folder_lock import BEAT, SILENCE
from lit_continual.files.process import Process
from lit_continual.files.whole_files import read_json, replaced, write_text

LIMIT = "LIT_CONTINUAL_CACHE_GB"
USED = "used"  # folder of leases
PASSING = "answers-"  # files of one process alone, whose names begin with this
LEFT = 3600.0  # seconds after which what a killed process was writing is no longer being written
RECENT = 10.0  # seconds for which the size of the folder is known without another look


class Lease:
    """Says that this process uses files of a folder, from now on until :meth:`release`; nobody removes them meanwhile.

    It is a file that names the process and is touched as long as that lives, so that those of dead ones count no more.

    Args:
        folder: The folder.
        names: Names of the files, which need not be there yet.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder, self.names, self._pid = folder, list(names), os.getpid()
        self.path = folder / USED / f"{uuid.uuid4().hex}.json"
        write_text(self.path, json.dumps({"process": asdict(Process.of(self._pid)), "names": self.names}))
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        """Give the files back; those of this process alone are gone then."""
        if os.getpid() != self._pid:  # a worker process, of which this is a copy
            return
        self._over.set()
        self.path.unlink(missing_ok=True)
        for name in self.names:
            if name.startswith(PASSING):
                with contextlib.suppress(OSError):  # Windows keeps what is mapped
                    (self.folder / name).unlink()


def used_names(folder: Path) -> set[str]:
    """Return the names of the files that processes use which are alive, as far as one can see."""
    used: set[str] = set()
    for path in (folder / USED).glob("*.json"):
        try:
            content = read_json(path)
            process, names = Process(**content["process"]), {str(name) for name in content["names"]}
            over = process.is_gone if process.is_here else _age(path) > SILENCE
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, KeyError):
            names, over = set(), _age(path) > SILENCE
        if over:
            path.unlink(missing_ok=True)
        else:
            used |= names
    return used


class CachedFiles:
    """The files of one folder, ``*.pt``, which together have no more bytes than a limit.

    The limit is ``LIT_CONTINUAL_CACHE_GB`` times 10⁹ bytes, by default half of what the disk has free without the
    files. The files that were not used for the longest time are removed first, and never one that is under a
    :class:`Lease`. What several processes are writing at the same moment may pass the limit until the next look.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock, self._total, self._seen = threading.Lock(), 0, 0.0

    def touch(self, path: Path) -> bool:
        """Note that a file is used now; return whether it is there."""
        try:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except FileNotFoundError:
            return False
        except OSError:  # somebody else's, which may be read
            return path.exists()
        return True

    def write(self, path: Path, content: Any) -> None:
        """Write a file with room for it, atomically.

        Raises:
            ValueError: If there is no room and what there is is in use.
        """
        self.make(path, partial(torch.save, content))

    def make(self, path: Path, write: Callable[[Path], Any]) -> None:
        """Let a file be written elsewhere, and give it room and its place, as :meth:`write` does."""
        aside = _aside(path)  # not named after the process alone, as there are others of its number on other machines
        with replaced(aside) as temporary:
            write(temporary)
            self._make_room(temporary.stat().st_size)
        try:
            os.replace(aside, path)
        except PermissionError:  # on Windows, of what another process has written meanwhile and has mapped
            if not path.exists():
                raise
            aside.unlink()

    def _make_room(self, size: int) -> None:
        with self._lock:
            if time.monotonic() - self._seen > RECENT or self._total + size > self._limit(self._total):
                files = self._files()
                self._total, self._seen = sum(of for _, of, _ in files), time.monotonic()
                limit, used = self._limit(self._total), used_names(self.folder)
                for _, of, path in files:
                    passing = path.name.startswith(PASSING)  # left by a process that was killed
                    if (passing or self._total + size > limit) and path.name not in used and self.remove(path):
                        self._total -= of
                if self._total + size > limit:
                    raise ValueError(
                        f"The volumes in use take {self._total / 1e9:.3g} GB of {self.folder}, and another of"
                        f" {size / 1e9:.3g} GB is more than its limit of {limit / 1e9:.3g} GB. Raise {LIMIT}, set"
                        " LIT_CONTINUAL_CACHE to a folder on a larger disk, or take `cache: memory`."
                    )
            self._total += size

    def _files(self) -> list[tuple[int, int, Path]]:
        """When each file was used last, its bytes, and its path; the longest unused first."""
        found = []
        for path in self.folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if path.suffix == ".pt":
                    found.append((stat.st_atime_ns, stat.st_size, path))
                elif path.suffix in (".part", ".old") and time.time() - stat.st_mtime > LEFT:
                    path.unlink(missing_ok=True)
        return sorted(found)

    def remove(self, path: Path) -> bool:
        """Remove a file unless it is used; return whether it is gone.

        It is renamed first: who has taken a lease on it by then gets it back, and who takes one later does not find it.
        """
        aside = _aside(path)
        try:
            os.replace(path, aside)
            if path.name in used_names(self.folder):
                os.replace(aside, path)
                return False
            aside.unlink()
        except OSError:  # gone already, or mapped by a process on Windows
            return not path.exists()
        return True

    def _limit(self, held: int) -> float:
        given = os.environ.get(LIMIT)
        if not given:
            return (shutil.disk_usage(self.folder).free + held) / 2
        try:
            limit = float(given) * 1e9
        except ValueError:
            limit = 0.0
        if not (isfinite(limit) and limit > 0):
            raise ValueError(f"{LIMIT} must be a positive number of gigabytes, got {given!r}.")
        return limit


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.old")


def _age(path: Path) -> float:
    """Seconds since a file was touched; none where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
