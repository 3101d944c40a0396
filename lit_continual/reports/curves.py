"""Forgetting curves: what became of each experience as others were learnt."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_continual.reports.figures import GREY, INK, line_styles, open_frame, panels, plain, scale_of, shorten
from lit_continual.reports.summary import experiences_of, last
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score

_COLUMNS = 3


def curves_figure(runs: Sequence[Run], score: Score) -> Figure:
    """Draw the score on each experience after every step from when it was learnt, one panel an experience.

    Runs lie over each other; those of one name share a colour. Joint and single training, which have no steps, are
    dashed lines.
    """
    names = experiences_of(runs)
    figure, grid = panels(len(names), _COLUMNS, (3.1, 2.2), (0.5, 0.5), sharey=True)
    scale = scale_of(runs, score)
    margin = 0.04 * (scale.high - scale.low)
    for axes, name in zip(grid.ravel(), names, strict=False):
        _panel(axes, runs, score, name)
        axes.set_ylim(scale.low - margin, scale.high + margin)
    for axes in grid[:, 0]:
        axes.set_ylabel(plain(score.title), fontsize=8, color=INK)
    if len(runs) > 1:
        figure.legend(handles=_legend(runs), loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def _panel(axes: Axes, runs: Sequence[Run], score: Score, name: str) -> None:
    orders = []
    for run, style in zip(runs, line_styles(runs), strict=True):
        order = [e.name for e in run.experiences]
        if name not in order or score.name not in run.matrix:
            continue
        on = order.index(name)
        if run.mode == "continual":
            orders.append(order)
            values = run.matrix[score.name][on:, on]
            axes.plot(range(on, len(order)), values, markersize=5, linewidth=1.4, **style)
            if len(runs) == 1:
                _write_values(axes, score, on, values)
        elif np.isfinite(level := last(run, score)[on]):
            axes.axhline(level, linewidth=1.4, **style)
    axes.set_title(plain(shorten(name, 36)), fontsize=9, color=INK, fontweight="bold", loc="left")
    longest = max(orders, key=len, default=[])
    alike = all(order == longest[: len(order)] for order in orders)
    _frame(axes, longest if alike else [f"step {i}" for i in range(1, len(longest) + 1)])


def _write_values(axes: Axes, score: Score, first: int, values: Iterable[float]) -> None:
    up = 6 if not score.higher_is_better else -12  # points, to the side that the curve leaves free
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 6.5, "color": INK}
    for step, value in enumerate(values, first):
        if np.isfinite(value):
            axes.annotate(score.text(value), (step, value), (0, up), **style)


def _frame(axes: Axes, steps: Sequence[str]) -> None:
    ticks = [plain(shorten(step, 14)) for step in steps]
    turned: dict[str, Any] = (
        {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, ticks)) > 32 else {}
    )
    open_frame(axes)
    axes.set_xticks(range(len(steps)), ticks, **turned)
    axes.set_xlim(-0.3, max(len(steps), 2) - 0.7)
    axes.set_xlabel("after learning", fontsize=7.5, color=GREY)


def _legend(runs: Sequence[Run]) -> list[Line2D]:
    styles = {(run.name, run.mode): style for run, style in zip(runs, line_styles(runs), strict=True)}
    return [Line2D([], [], label=plain(shorten(name, 40)), **style) for (name, _), style in styles.items()]
