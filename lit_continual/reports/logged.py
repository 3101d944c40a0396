"""The curves of a run, from the CSV files in its folder."""

import csv
from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any


def logged_values(folder: Path) -> dict[str, list[float]]:
    """Every value that a run logged under each name, in the order of the training steps."""
    return {name: [steps[step] for step in sorted(steps)] for name, steps in logged_steps(folder).items()}


def logged_steps(folder: Path) -> dict[str, dict[int, float]]:
    """What a run logged under each name at each training step; it may be under way.

    A run that was resumed has a file more; where both have a step, the later file counts.

    Args:
        folder: Folder of the run.
    """
    found: dict[str, dict[int, float]] = {}
    versions = {file: file.parent.name.partition("_")[2] for file in (folder / "logs").glob("version_*/metrics.csv")}
    for file in sorted((f for f, version in versions.items() if version.isdecimal()), key=lambda f: int(versions[f])):
        with file.open(encoding="utf-8", errors="replace", newline="") as opened:
            for row in _rows(opened, file):
                step = _number(row.get("step"))
                for name, text in row.items():
                    value = _number(text)
                    if name not in (None, "step", "epoch") and value is not None and step is not None:
                        found.setdefault(name, {})[int(step)] = value
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
