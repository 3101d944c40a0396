"""SIGTERM, SIGHUP and Ctrl-C: a command that is asked to leave does so at once, and says how to go on."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from lit_continual.files.whole_files import is_first_rank

FIRST_RANK = "LIT_CONTINUAL_FIRST_RANK"  # id of the process that Lightning starts the other ranks from

#: What asks a command to leave; the last comes when a terminal is closed, which Windows does without it.
_ASKING = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_received: list[int] = []  # in the order in which they came
_first: list[int] = []  # the first rank's process, in those that Lightning has started from it
_advice: list[str] = []  # the last is how to go on; empty where nothing is handled


def received() -> int:
    """The signal that has asked this process to leave; 0 for none."""
    return _received[0] if _received else 0


def check() -> None:
    """Leave if a signal has asked for it: what was raised where it struck may have been swallowed there.

    Raises:
        SystemExit: On SIGTERM and SIGHUP.
        KeyboardInterrupt: On Ctrl-C.
    """
    if _received:
        _leave(_received[0])


@contextlib.contextmanager
def handled(advice: str, process_ends: bool = False) -> Iterator[None]:
    """Handle these signals in a block: each raises where it strikes, once, and :func:`received` gives it.

    Args:
        advice: How to go on.
        process_ends: Whether this process ends with the block after a signal. It then takes no other: ranks that it
            ends send theirs back, which would take the place of its exit code.
    """
    if _advice or threading.current_thread() is not threading.main_thread():
        yield  # whoever has the main thread handles signals
        return
    _received.clear()
    _advice.append(advice)
    _watch_the_first_rank()
    asked = [n for n in _ASKING if signal.getsignal(n) != signal.SIG_IGN]  # nohup ignores
    before = {number: signal.signal(number, _handle) for number in asked}
    try:
        yield
    finally:
        _advice.clear()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if process_ends and _received else handler)


def advise(advice: str) -> None:
    """Say better how to go on, now that more is known."""
    if _advice:
        _advice[-1] = advice


def take_back() -> None:
    """Handle SIGTERM again, which Lightning does while a trainer runs.

    Its handler lets training go on to the end of a batch and exits with 0, and broadcasts to the other ranks, which
    hangs if one of them is in another collective.
    """
    if _advice and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _handle)


def print_advice() -> None:
    """Write, on the first rank, which signal has ended the command and how to go on."""
    if is_first_rank():
        name = "Ctrl-C" if received() == signal.SIGINT else signal.Signals(received()).name
        with contextlib.suppress(OSError):  # such as a terminal that is gone
            sys.stderr.write(f"lit-continual: stopped by {name}; {_advice[-1]}.\n")
            sys.stderr.flush()


def exit_code() -> int:
    """The exit code of a process that leaves as a signal asked.

    That of a rank that Lightning has started is 0: after another one Lightning kills the first rank, which has a line
    to write and a code of its own.
    """
    return 0 if _first_rank() else 128 + received()


def _handle(number: int, frame: FrameType | None) -> None:
    again = bool(_received)
    _received.append(number)
    if not again and (first := _first_rank()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, number)  # ranks leave together
    if not again or number == signal.SIGINT:
        _leave(number)


def _leave(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _first_rank() -> int:
    """Id of the first rank's process in those that Lightning has started from it, else 0."""
    return _first[0] if _first else 0


def _watch_the_first_rank() -> None:
    """End a rank with the process that has started it, for which it would wait for ever."""
    _first.clear()
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[FIRST_RANK] = str(os.getpid())
    elif os.environ.get(FIRST_RANK) == str(os.getppid()):  # and not torchrun or a user's script, which see to it
        _first.append(os.getppid())
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(process: int) -> None:
    while os.getppid() == process:
        time.sleep(0.5)
    os._exit(1)
