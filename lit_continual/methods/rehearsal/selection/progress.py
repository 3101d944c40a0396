"""Progress of a selection that takes its time."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def shown(steps: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Iterate with a progress bar, which is gone at the end, where standard error is a terminal.

    Example:
        >>> list(shown([1, 2], "Counting"))
        [1, 2]
    """
    console = Console(stderr=True)
    return track(steps, description, total, console=console, transient=True, disable=not console.is_terminal)
