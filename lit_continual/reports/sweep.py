"""A sweep: a metric over the options that were swept, for the terminal, and as CSV, PNG and an HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_continual.reports.html import picture, render
from lit_continual.reports.over_option import over_option_figure
from lit_continual.reports.report import png, renewed
from lit_continual.reports.summary import mean_std
from lit_continual.reports.tables import write_rows
from lit_continual.runs.score import Score

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
        return min(known, key=lambda point: sign * mean_std(point.of(self.metric))[0], default=None)

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


def write_sweep(sweep: Sweep, folder: Path) -> Path:
    """Write ``sweep.html``, ``sweep.png``, ``sweep.csv`` (a line a combination) and ``trials.csv``; return the page.

    Raises:
        OSError: If they cannot be written; the folder is then as it was.
    """
    with renewed(folder) as aside:
        figure = over_option_figure(*sweep.drawn)
        drawn = png(figure) if figure else None
        if drawn:
            (aside / "sweep.png").write_bytes(drawn)
        statistics = [f"{metric} {what}" for metric in sweep.metrics for what in ("mean", "std", "n")]
        found = [(point, [point.of(metric) for metric in sweep.metrics]) for point in sweep.points]
        points = [[*point.values, *(x for v in values for x in (*mean_std(v), len(v)))] for point, values in found]
        write_rows(aside / "sweep.csv", [*sweep.swept, *statistics], points)
        options = list(dict.fromkeys(name for trial in sweep.trials for name in trial.values))
        logged = sorted({name for trial in sweep.trials for name in trial.logged})
        trials = [
            [t.number, t.complete, *map(t.values.get, options), *map(t.logged.get, logged), str(t.folder)]
            for t in sweep.trials
        ]
        write_rows(aside / "trials.csv", ["trial", "complete", *options, *logged, "folder"], trials)
        (aside / "sweep.html").write_text(_page(sweep, picture(drawn) if drawn else None), "utf-8")
    return folder / "sweep.html"


def sweep_table(sweep: Sweep) -> RenderableType:
    """What ``rich`` prints: a line a combination, the best one bold."""
    title = Text(f"{sweep.name}: {sweep.metric}, {sweep.goal}", style="bold")
    shown = Table(title=title, title_justify="left", header_style="dim")
    for heading in _headings(sweep):
        shown.add_column(Text(heading), justify="right")
    for point in sweep.points:
        shown.add_row(*map(Text, _line(sweep, point)), style="bold" if point == sweep.best else "")
    return Group(shown, Text(_legend(sweep), style="dim"))


def _headings(sweep: Sweep) -> list[str]:
    return [*short_names(sweep.swept), "trials", *sweep.metrics]


def _line(sweep: Sweep, point: Point) -> list[str]:
    numbers = [Score(metric).text(*mean_std(point.of(metric))) for metric in sweep.metrics]
    return [*map(str, point.values), str(len(point.trials)), *numbers]


def _legend(sweep: Sweep) -> str:
    complete = sum(trial.complete for trial in sweep.trials)
    early = f", {len(sweep.trials) - complete} ended early and left out" if complete < len(sweep.trials) else ""
    spread = any(isfinite(mean_std(point.of(sweep.metric))[1]) for point in sweep.points)
    over = "; mean ± standard deviation (n - 1) over seeds" if spread else ""
    return f"{complete} complete trials{early}{over}."


def _page(sweep: Sweep, figure: dict[str, object] | None) -> str:
    lines = [(_line(sweep, point), point == sweep.best) for point in sweep.points]
    trials = []
    for t in sweep.trials:
        options = zip(short_names(list(t.values)), t.values.values(), strict=True)
        trials.append((t, ", ".join(f"{name} {value}" for name, value in options)))
    parts = {"headings": _headings(sweep), "lines": lines, "trials": trials, "legend": _legend(sweep)}
    return render("sweep.html.j2", sweep=sweep, figure=figure, text=Score(sweep.metric).text, nan=nan, **parts)
