"""Processes that begin with everything imported: forks of one that has done nothing else.

Imports take a fit some seconds, often longer than a small one trains. A fork is from there on like a process of its
own: it has its environment, its output and its arguments, and ends as the interpreter does.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_continual.files.process import Process

PAUSE = 0.02  # seconds between two looks at the processes
POSSIBLE = sys.platform.startswith("linux")  # where what macOS's libraries start does not outlive a fork


class Forked:
    """A process that a server has forked, with what is asked of a ``subprocess.Popen``."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.server, self.pid, self.process = server, pid, Process.of(pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while it runs."""
        if self.returncode is None:
            self.returncode = self.server.exit_code(self.pid)
        if self.returncode is None and not self.server.alive and self.process.is_gone:
            self.returncode = 1  # nobody knows
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            TimeoutExpired: If it has not come in time.
        """
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(PAUSE)
        return code

    def terminate(self) -> None:
        """Ask it to leave."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class ForkServer:
    """A process that has imported what a fit needs, and forks at will; its forks outlive it.

    Args:
        environment: Of its process, in which the number of threads is read when torch is imported.
        modules: What it imports.
    """

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._channel, self._codes, self.alive = ours, dict[int, int](), True
        self._messages = _messages(ours)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "lit_continual.studies.fork_server", str(theirs.fileno()), *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> Forked | None:
        """Start a ``lit-continual`` with arguments and environment; ``None`` if the server cannot."""
        order = {"arguments": list(arguments), "environment": dict(environment), "output": str(output)}
        try:
            self._channel.sendall(json.dumps(order).encode() + b"\n")
            while self.alive:
                if (pid := self._receive()) is not None:
                    return Forked(self, pid)
        except OSError:
            self.alive = False
        return None

    def exit_code(self, pid: int) -> int | None:
        """The exit code of a fork that has ended."""
        while self.alive and select.select([self._channel], [], [], 0)[0]:
            self._receive()
        return self._codes.pop(pid, None)

    def _receive(self) -> int | None:
        """Take the next message; return the id of a process that has begun."""
        message = next(self._messages, None)
        self.alive = message is not None
        if message is not None and "code" in message:
            self._codes[message["pid"]] = message["code"]
            return None
        return None if message is None else int(message["pid"])

    def close(self) -> None:
        """End the server."""
        self.alive = False
        self._messages.close()
        self._channel.close()
        self._server.kill()
        self._server.wait()


def _messages(channel: socket.socket) -> Generator[dict[str, Any], None, None]:
    """The messages of the other side, a line each, as they come; they end with it."""
    with channel.makefile("rb", buffering=0) as lines:
        for line in lines:
            yield json.loads(line)


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork whenever the other side asks for it; return, in each fork, what it is to do."""
    running: set[int] = set()
    orders = _messages(channel)
    while True:
        if select.select([channel], [], [], PAUSE if running else None)[0]:
            order = next(orders, None)
            if order is None:
                os._exit(0)  # the forks go on
            pid = os.fork()
            if not pid:
                return order
            running.add(pid)
            _say(channel, pid=pid)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                _say(channel, pid=pid, code=os.waitstatus_to_exitcode(status))


def _say(channel: socket.socket, **message: int) -> None:
    with contextlib.suppress(OSError):  # the end of the other side is seen when it is read
        channel.sendall(json.dumps(message).encode() + b"\n")


def _forks_have_cuda() -> bool:
    """Whether no import has initialised CUDA, which none of the forks could use then."""
    library = getattr(sys.modules.get("torch"), "_C", None)
    poisoned = getattr(library, "_cuda_isInBadFork", None)
    pid = os.fork()
    if not pid:
        os._exit(bool(poisoned and poisoned()))
    return os.waitpid(pid, 0)[1] == 0


def _become(order: Mapping[str, Any]) -> None:
    """Go on as ``lit-continual`` with its arguments would in a process of its own."""
    os.environ.clear()
    os.environ.update(order["environment"])
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.argv[1:] = order["arguments"]
    runpy.run_module("lit_continual", run_name="__main__", alter_sys=True)


def main() -> None:
    """Serve whoever has started this process and holds the other end of the socket in ``sys.argv``."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which is for the forks
    channel = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # memory that the forks share
    if not _forks_have_cuda():
        os._exit(0)  # then each fit has a process of its own
    order = _serve(channel)
    channel.detach()
    os.close(int(sys.argv[1]))
    signal.signal(signal.SIGINT, interrupt)
    _become(order)


if __name__ == "__main__":
    main()
