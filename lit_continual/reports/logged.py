"""The curves of runs, from the CSV files in their folders."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lit_continual.reports.comparison import Line
from lit_continual.reports.figures import GREY, INK, LINES, open_frame, plain, shorten


def logged_values(folder: Path) -> dict[str, list[float]]:
    """Every number that a run logged under each name, in the order of the training steps; none where all were nan."""
    return {name: [steps[step] for step in sorted(steps)] for name, steps in logged_steps(folder).items()}


def logged_steps(folder: Path) -> dict[str, dict[int, float]]:
    """What a run logged under each name at each training step; it may be under way.

    A run that was resumed has a file more; where both have a step, the later file counts.
    """
    found: dict[str, dict[int, float]] = {}
    versions = {file: file.parent.name.partition("_")[2] for file in (folder / "logs").glob("version_*/metrics.csv")}
    known = (file for file, version in versions.items() if version.isdecimal() and file.is_file())
    for file in sorted(known, key=lambda f: int(versions[f])):
        with file.open(encoding="utf-8", errors="replace", newline="") as opened:
            for row in _rows(opened, file):
                step = _number(row.get("step"))
                for name, text in row.items():
                    if text and name not in (None, "step", "epoch") and step is not None:
                        values = found.setdefault(name, {})
                        if (value := _number(text)) is not None:
                            values[int(step)] = value
    return found


def _rows(opened: Iterable[str], file: Path) -> Iterator[dict[Any, Any]]:
    try:
        yield from csv.DictReader(opened)
    except csv.Error as error:
        raise ValueError(f"`{file}` is no CSV ({error}); remove it, and the curves go without.") from error


def _number(text: object) -> float | None:
    """A number, or ``None`` for an empty field and for one that is being written."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if isfinite(value) else None


def training_figure(lines: Sequence[Line], name: str) -> Figure | None:
    """Draw what the runs of each method logged under ``name``: the mean over the seeds, and their range as a band.

    Steps count through all experiences of a run. ``None`` if nobody logged it.
    """
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for number, line in enumerate(lines):
        runs = [values for run in line.runs if (values := logged_steps(run.folder).get(name))]
        steps = sorted(set.intersection(*(set(values) for values in runs))) if runs else []
        if steps:
            found = np.array([[run[step] for step in steps] for run in runs])
            colour = LINES[number % len(LINES)]
            axes.plot(steps, found.mean(0), color=colour, linewidth=1.4, label=plain(shorten(line.method, 40)))
            axes.fill_between(steps, found.min(0), found.max(0), color=colour, alpha=0.15, linewidth=0)
    if not axes.lines:
        return None
    axes.set_title(plain(name), fontsize=9, color=INK, fontweight="bold", loc="left")
    axes.set_xlabel("training step", fontsize=8, color=GREY)
    open_frame(axes)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
