"""The command that runs one cell, wherever it is given."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_continual.files.printing import show
from lit_continual.studies.cell import OUTPUT, Cell
from lit_continual.studies.cells import Workers, run_cells


def run_cell(folder: Path, arguments: Sequence[str], threads: str | None = None, group: str = "") -> None:
    """Run a cell if it is not finished, or wait for who runs it; it sees the GPUs that this process does.

    Args:
        folder: Of its run.
        arguments: Of its ``fit``.
        threads: How many it has; by default ``OMP_NUM_THREADS``, or 4.
        group: Of its run in W&B.

    Raises:
        SystemExit: If it failed, with what it said.
    """
    environment = {**os.environ, **({"OMP_NUM_THREADS": threads} if threads else {})}
    cell = Cell(str(folder), folder, tuple(arguments), group=group)
    with Workers(1, environment=environment, gpus=0) as workers:
        for _, error in run_cells([cell], workers):
            if error:
                sys.exit(f"lit-continual: error: {cell.name}: {error}; the same command goes on.")
            show(f"{cell.name}: finished, see {cell.folder / OUTPUT}")
