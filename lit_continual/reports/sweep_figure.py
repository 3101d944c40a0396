"""A metric over the option that was swept, with error bars over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_continual.reports.shades import GREY, INK, LINES, MARKERS, RULE, plain, shorten
from lit_continual.reports.sweep import Point, Sweep, short_names

_COLUMNS, _TICKS, _DECADES = 3, 12, 50


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
    series: dict[tuple[Any, ...], list[Point]] = {}
    for point in sweep.points:
        series.setdefault(point.values[:at] + point.values[at + 1 :], []).append(point)
    place, spaced = _places([point.values[at] for point in sweep.points])
    for number, (values, points) in enumerate(series.items()):
        label = ", ".join(f"{n} {v}" for n, v in zip(names[:at] + names[at + 1 :], values, strict=True))
        style: dict[str, Any] = {"color": LINES[number % len(LINES)], "marker": MARKERS[number % len(MARKERS)]}
        shown = sorted((p for p in points if p.of(metric)), key=lambda p: place[p.values[at]])
        x = [place[p.values[at]] for p in shown]
        _line(axes, x, shown, metric, {**style, "label": plain(shorten(label, 40)), "linewidth": 1.4 if spaced else 0})
    if spaced:
        axes.set_xticks(list(place.values()), [_tick(value) for value in place])
        axes.set_xlim(-0.4, len(place) - 0.6)
    elif min(place) > 0 and max(place) / min(place) > _DECADES:
        axes.set_xscale("log")
    axes.set_title(plain(shorten(metric, 36)), fontsize=9, color=INK, fontweight="bold", loc="left")
    axes.set_xlabel(plain(names[at]), fontsize=8, color=GREY)
    axes.tick_params(labelsize=7, color=RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)


def _line(axes: Axes, x: list[float], points: Sequence[Point], metric: str, style: dict[str, Any]) -> None:
    spread = np.nan_to_num([point.std(metric) for point in points])
    bars = spread if spread.any() else None
    means = [point.mean(metric) for point in points]
    axes.errorbar(x, means, yerr=bars, markersize=5, capsize=3, elinewidth=1, **style)
    several = [(i, point.of(metric)) for i, point in zip(x, points, strict=True) if len(point.of(metric)) > 1]
    dots = [(i, value) for i, values in several for value in values]
    axes.plot([i for i, _ in dots], [v for _, v in dots], ".", color=style["color"], alpha=0.45, markersize=4)


def _places(values: Sequence[Any]) -> tuple[dict[Any, float], bool]:
    """Where each value stands on the axis, in order, and whether at equal distances."""
    numbers = all(isinstance(value, (int, float)) for value in values)
    ordered = sorted(set(values)) if numbers else list(dict.fromkeys(values))
    spaced = len(ordered) <= _TICKS or not numbers
    return {value: float(i if spaced else value) for i, value in enumerate(ordered)}, spaced


def _tick(value: Any) -> str:
    return plain(shorten(f"{value:g}" if isinstance(value, float) else str(value), 12))
