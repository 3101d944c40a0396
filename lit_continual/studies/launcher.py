"""What runs cells: processes here, or a cluster."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from typing_extensions import Self

from lit_continual.studies.cell import Cell


class Launcher(Protocol):
    """Runs cells and says which came to an end; to be entered as a context, with which what it holds ends.

    Attributes:
        waits: Whether a cell may be started before those that it starts from are finished, and waits for them.
    """

    waits: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    @property
    def jobs(self) -> Mapping[Cell, Any]:
        """The cells that were started and have not ended."""

    @property
    def free(self) -> bool:
        """Whether one more cell may start."""

    def start(self, cell: Cell) -> None:
        """Run a cell that is not finished, or wait for who runs it already."""

    def ended(self) -> dict[Cell, str]:
        """Cells that came to an end since the last look, with what went wrong; "" where nothing did."""

    def stop(self, cell: Cell) -> None:
        """End a cell before its time."""
