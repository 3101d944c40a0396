"""Processes, and whether they are gone."""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, anywhere.

    Attributes:
        host: Its machine.
        pid: Its id there.
        space: What its id is an id in, as containers on one machine have ids of their own; "" if unknown.
        begun: When it began, in ticks since the machine did, which distinguishes it from a later one of that id; "".
        parent: Id of the process that has started it and waits for it; "" if unknown.
    """

    host: str
    pid: int
    space: str = ""
    begun: str = ""
    parent: str = ""

    @classmethod
    def of(cls, pid: int) -> "Process":
        """A process on this machine."""
        _, begun, parent = _state(pid) or ("", "", "")
        return cls(socket.gethostname(), pid, _space(), begun, parent)

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, on this machine."""
        return (self.host, self.space) == (socket.gethostname(), _space())

    @property
    def is_gone(self) -> bool:
        """Whether it has ended; known only of one on this machine."""
        if not self.is_here:
            return False
        if sys.platform.startswith("linux") and Path("/proc/self/stat").exists():
            state, begun, _ = _state(self.pid) or ("Z", "", "")
            return state == "Z" or (bool(self.begun) and begun != self.begun)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    @property
    def is_orphan(self) -> bool:
        """Whether it goes on on this machine though what has started it has ended."""
        return self.is_here and bool(self.parent) and not self.is_gone and _state(self.pid)[2:] != (self.parent,)


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, ...]:
    """State of a process, when it began and its parent; nothing where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ()
    return fields[0], fields[19], fields[1]
