"""How a table or a sweep is to be run, as the command line says."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lit_continual.data.arguments import MOST_WORKERS, require_at_least
from lit_continual.stream.tracking import announce
from lit_continual.studies.cell import Cell, threads_of
from lit_continual.studies.cells import Workers
from lit_continual.studies.launcher import Launcher
from lit_continual.studies.printed import write_commands
from lit_continual.studies.slurm import Slurm, SlurmJobs


@dataclass(frozen=True)
class Launch:
    """How a table or a sweep is to be run.

    Args:
        launcher: ``local``, as processes here; ``slurm``, as jobs; ``print``, by others, for whom the commands are
            written.
        workers: Cells at a time; 0 shows what is there. By default one here, and as many as SLURM lets run.
        gpus: How many of this machine's a cell sees; 0 for all.
        modules: As of :class:`~lit_continual.studies.cells.Workers`.

    Raises:
        ValueError: If ``workers`` or ``gpus`` is negative.
    """

    launcher: Literal["local", "slurm", "print"] = "local"
    workers: int | None = None
    gpus: int = 1
    modules: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_at_least(0, MOST_WORKERS, workers=self.workers, gpus=self.gpus)

    @property
    def runs(self) -> bool:
        """Whether cells are to run in this call."""
        return self.workers != 0 and self.launcher != "print"

    @property
    def in_words(self) -> str:
        """How many run at a time."""
        return f"{self.workers or 1} at a time" if self.launcher == "local" else "as jobs"

    def open(self, folder: Path, slurm: Slurm, name: str) -> Launcher:
        """Make what runs the cells.

        Args:
            folder: Of the table or the sweep.
            slurm: Its section.
            name: Its name.
        """
        if self.launcher == "slurm":
            return SlurmJobs(folder / "slurm", slurm, threads_of(os.environ), self.workers, name)
        return Workers(1 if self.workers is None else self.workers, gpus=self.gpus, modules=self.modules)

    def write(self, cells: Sequence[Cell], folder: Path) -> None:
        """Write the commands of the cells that are not finished into ``commands`` in the folder, and say so."""
        stages = write_commands(cells, folder / "commands", threads_of(os.environ))
        for path in stages:
            announce(f"{len(path.read_text(encoding='utf-8').splitlines())} commands that may run together: {path}")
        announce(
            f"All with what each starts from: {folder / 'commands' / 'jobs.tsv'}" if stages else "All are finished"
        )


LOCAL = Launch()
