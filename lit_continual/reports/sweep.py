"""The numbers of a sweep: a metric over the options that were swept, with the spread over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Literal

import numpy as np

SEED = "seed_everything"


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        number: Its number.
        values: Option -> value.
        logged: Name -> last value of everything that the run logged.
        complete: False if it was ended early.
        folder: Folder of the run.
    """

    number: int
    values: Mapping[str, Any]
    logged: Mapping[str, float]
    complete: bool
    folder: Path


@dataclass(frozen=True)
class Point:
    """The complete trials of one combination of values, which differ in their seed only."""

    values: tuple[Any, ...]
    trials: tuple[Trial, ...]

    def mean(self, metric: str) -> float:
        """Mean over the trials."""
        return float(np.mean(self.of(metric))) if self.of(metric) else nan

    def std(self, metric: str) -> float:
        """Standard deviation over the trials, with ``n - 1`` in the denominator; nan for one."""
        return float(np.std(self.of(metric), ddof=1)) if len(self.of(metric)) > 1 else nan

    def of(self, metric: str) -> list[float]:
        """The value of each trial that has one."""
        return [trial.logged[metric] for trial in self.trials if metric in trial.logged]


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        name: Its name.
        metric: What it is about.
        goal: Whether less of the metric is better, or more.
        trials: Those that ended.
    """

    name: str
    metric: str
    goal: Literal["minimize", "maximize"]
    trials: tuple[Trial, ...]

    @property
    def swept(self) -> list[str]:
        """The options, but the seed, that had several values."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.values if name != SEED)
        return [name for name in names if len({repr(trial.values.get(name)) for trial in self.trials}) > 1]

    @property
    def axis(self) -> str | None:
        """The option to draw the metric over: the first with numbers, or else the first."""
        numbers = [n for n in self.swept if all(_is_number(trial.values.get(n)) for trial in self.trials)]
        return next(iter([*numbers, *self.swept]), None)

    @property
    def points(self) -> list[Point]:
        """The combinations of the swept options, in order."""
        found: dict[tuple[Any, ...], list[Trial]] = {}
        for trial in self.trials:
            if trial.complete:
                found.setdefault(tuple(trial.values.get(name) for name in self.swept), []).append(trial)
        points = [Point(values, tuple(trials)) for values, trials in found.items()]
        return sorted(points, key=lambda point: [(_is_number(v), v if _is_number(v) else str(v)) for v in point.values])

    @property
    def best(self) -> Point | None:
        """The combination with the best mean of the metric."""
        known = [point for point in self.points if point.of(self.metric)]
        sign = -1 if self.goal == "maximize" else 1
        return min(known, key=lambda point: sign * point.mean(self.metric), default=None)

    @property
    def metrics(self) -> list[str]:
        """The metric, and what else to show: the last row of the result matrix of the streams' first score."""
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.logged))
        scores = [name.split("/")[1] for name in names if name.startswith("matrix/")]
        first = "dice" if "dice" in scores else next(iter(scores), "")
        rest = sorted(name for name in names if name.startswith(f"matrix/{first}/") and name != self.metric)
        return [self.metric, *rest]

    @property
    def drawn(self) -> tuple[str, dict[str, dict[str, dict[Any, list[float]]]]]:
        """The name of the axis; and for each metric and combination of the other options, its numbers by value."""
        if self.axis is None:
            return "", {}
        at, names = self.swept.index(self.axis), short_names(self.swept)
        panels: dict[str, dict[str, dict[Any, list[float]]]] = {metric: {} for metric in self.metrics}
        for point in self.points:
            label = ", ".join(f"{n} {v}" for i, (n, v) in enumerate(zip(names, point.values, strict=True)) if i != at)
            for metric, lines in panels.items():
                lines.setdefault(label, {})[point.values[at]] = point.of(metric)
        return names[at], panels


def short_names(options: Sequence[str]) -> list[str]:
    """Each option by its last word, or in full where that would be ambiguous.

    Example:
        >>> short_names(["trainer.callbacks.strength", "model.lr", "data.lr"])
        ['strength', 'model.lr', 'data.lr']
    """
    last = [option.rpartition(".")[2] for option in options]
    return [word if last.count(word) == 1 else option for word, option in zip(last, options, strict=True)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
