"""A sweep for the terminal, and as CSV, PNG and an HTML page."""

from math import isfinite
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_continual.reports.html import picture, render
from lit_continual.reports.over_option import over_option_figure
from lit_continual.reports.report import png, renewed
from lit_continual.reports.sweep import Point, Sweep, short_names
from lit_continual.reports.tables import write_rows
from lit_continual.runs.score import Score


def write_sweep(sweep: Sweep, folder: Path) -> Path:
    """Write ``sweep.html``, ``sweep.png``, ``sweep.csv`` (a line a combination) and ``trials.csv``.

    Returns:
        Path of the page.

    Raises:
        OSError: If they cannot be written; the folder is then as it was.
    """
    with renewed(folder) as aside:
        figure = over_option_figure(*sweep.drawn)
        drawn = png(figure) if figure else None
        if drawn:
            (aside / "sweep.png").write_bytes(drawn)
        statistics = [f"{metric} {what}" for metric in sweep.metrics for what in ("mean", "std", "n")]
        points = [
            [*point.values, *(x for m in sweep.metrics for x in (point.mean(m), point.std(m), len(point.of(m))))]
            for point in sweep.points
        ]
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
    numbers = [Score(metric).text(point.mean(metric), point.std(metric)) for metric in sweep.metrics]
    return [*map(str, point.values), str(len(point.trials)), *numbers]


def _legend(sweep: Sweep) -> str:
    complete = sum(trial.complete for trial in sweep.trials)
    early = f", {len(sweep.trials) - complete} ended early and left out" if complete < len(sweep.trials) else ""
    spread = any(isfinite(point.std(sweep.metric)) for point in sweep.points)
    over = "; mean ± standard deviation (n - 1) over seeds" if spread else ""
    return f"{complete} complete trials{early}{over}."


def _page(sweep: Sweep, figure: dict[str, object] | None) -> str:
    lines = [(_line(sweep, point), point == sweep.best) for point in sweep.points]
    trials = [
        (t.number, ", ".join(f"{n} {v}" for n, v in zip(short_names(list(t.values)), t.values.values(), strict=True)),
         Score(sweep.metric).text(t.logged.get(sweep.metric, float("nan"))), t.complete, str(t.folder))
        for t in sweep.trials
    ]  # fmt: skip
    parts = {"headings": _headings(sweep), "lines": lines, "trials": trials, "legend": _legend(sweep)}
    return render("sweep.html.j2", sweep=sweep, figure=figure, **parts)
