"""A metric over the option that was swept, with error bars over seeds."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_continual.reports.shades import GREY, INK, LINES, MARKERS, RULE, plain, shorten
from lit_continual.reports.sweep import Point, Sweep, short_names

_COLUMNS, _TICKS = 3, 12


def sweep_figure(sweep: Sweep) -> Figure | None:
    """Draw each metric over the swept option, a line for every combination of the others.

    A point is the mean of the seeds and its bar their standard deviation; small dots are single trials. A dozen values
    or less stand at equal distances, since 0 and 50 share no useful scale; more are on an axis, a logarithmic one where
    they span decades. ``None`` if nothing was swept or is complete.
    """
    if sweep.axis is None or not sweep.points:
        return None
    columns = min(len(sweep.metrics), _COLUMNS)
    lines = -(-len(sweep.metrics) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.7, 2.5 * lines + 0.6), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(sweep.metrics) :]:
        axes.set_axis_off()
    for axes, metric in zip(grid, sweep.metrics, strict=False):
        _panel(axes, sweep, metric)
    handles, labels = grid[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def _panel(axes: Axes, sweep: Sweep, metric: str) -> None:
    at, names = sweep.swept.index(str(sweep.axis)), short_names(sweep.swept)
    ticks = list(dict.fromkeys(point.values[at] for point in sorted(sweep.points, key=lambda p: _order(p.values[at]))))
    spaced = len(ticks) <= _TICKS or not all(isinstance(tick, (int, float)) for tick in ticks)
    place = {tick: float(i) if spaced else float(tick) for i, tick in enumerate(ticks)}
    series: dict[tuple[Any, ...], list[Point]] = {}
    for point in sweep.points:
        series.setdefault(point.values[:at] + point.values[at + 1 :], []).append(point)
    others = names[:at] + names[at + 1 :]
    for number, (values, points) in enumerate(series.items()):
        shown = sorted((p for p in points if p.of(metric)), key=lambda p: place[p.values[at]])
        x = [place[p.values[at]] for p in shown]
        colour = LINES[number % len(LINES)]
        label = ", ".join(f"{name} {value}" for name, value in zip(others, values, strict=True))
        spread = np.nan_to_num([p.std(metric) for p in shown])
        axes.errorbar(
            x,
            [p.mean(metric) for p in shown],
            yerr=spread if spread.any() else None,
            label=plain(shorten(label, 40)),
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=1.4 if spaced else 0,
            capsize=3,
            elinewidth=1,
        )
        dots = [(i, value) for i, p in zip(x, shown, strict=True) if len(p.of(metric)) > 1 for value in p.of(metric)]
        axes.plot(*zip(*dots, strict=True) if dots else ([], []), ".", color=colour, alpha=0.45, markersize=4)
    if spaced:
        axes.set_xticks(
            range(len(ticks)), [plain(shorten(f"{t:g}" if isinstance(t, float) else str(t), 12)) for t in ticks]
        )
        axes.set_xlim(-0.4, len(ticks) - 0.6)
    elif min(ticks) > 0 and max(ticks) / min(ticks) > 50:
        axes.set_xscale("log")
    axes.set_title(plain(shorten(metric, 36)), fontsize=9, color=INK, fontweight="bold", loc="left")
    axes.set_xlabel(plain(names[at]), fontsize=8, color=GREY)
    axes.tick_params(labelsize=7, color=RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)


def _order(value: Any) -> tuple[bool, Any]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (number, value if number else str(value))
