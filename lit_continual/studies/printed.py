"""Cells as lines of a shell, for what queues or runs commands: GNU parallel, xargs, LSF, PBS."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from lit_continual.files.folder_aside import replaced_folder
from lit_continual.files.whole_files import write_text
from lit_continual.studies.cell import Cell

#: The files of a folder of commands.
OURS = re.compile(r"jobs\.tsv|stage_\d+\.txt")


def write_commands(cells: Sequence[Cell], folder: Path, threads: str) -> list[Path]:
    """Write the commands of the cells that are not finished, each on a line, in place of those that are there.

    ``stage_01.txt``, ``stage_02.txt``, … have the commands alone: all of a stage may run at the same time, when those
    of the stages before have ended. ``jobs.tsv`` has a number, a command and the numbers that it starts from, between
    tabs.

    Args:
        cells: All cells; those that another starts from are before it.
        folder: Where to.
        threads: How many a cell has.

    Returns:
        The files of the stages.

    Raises:
        ValueError: If an option has a line break or a tab in it, or something else is there.
    """
    there = list(folder.iterdir()) if folder.is_dir() else [folder] if os.path.lexists(folder) else []
    if others := [path for path in there if not OURS.fullmatch(path.name) or path == folder]:
        raise ValueError(f"{others[0]} is there already, and of no table or sweep. Choose another --output.")
    left = [cell for cell in cells if not cell.finished]
    stage: dict[Path, int] = {}
    for cell in left:
        stage[cell.folder] = 1 + max((stage[other] for other in cell.after if other in stage), default=0)
    number = {cell.folder: i for i, cell in enumerate(left, start=1)}
    lines = {cell.folder: _line(cell, threads) for cell in left}
    rows = [(number[c.folder], lines[c.folder], " ".join(str(number[o]) for o in c.after if o in number)) for c in left]
    stages = [[lines[f] for f in lines if stage[f] == n] for n in range(1, max(stage.values(), default=0) + 1)]
    with replaced_folder(folder) as temporary:
        write_text(temporary / "jobs.tsv", "".join("\t".join(map(str, row)) + "\n" for row in rows))
        for n, commands in enumerate(stages, start=1):
            write_text(temporary / f"stage_{n:02}.txt", "".join(f"{command}\n" for command in commands))
    return [folder / f"stage_{n:02}.txt" for n in range(1, len(stages) + 1)]


def _line(cell: Cell, threads: str) -> str:
    line = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(cell.command(threads))}"
    if set(line) & {"\n", "\r", "\t"}:
        raise ValueError(
            f"{cell.name}: an option has a line break or a tab in it, which a line of commands cannot. Write it"
            " otherwise, or take `--launcher local`."
        )
    return line
