"""Numbers over the values of an option, with error bars over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_continual.reports.figures import GREY, INK, LINES, MARKERS, open_frame, panels, plain, shorten
from lit_continual.reports.summary import mean_std

Lines = Mapping[str, Mapping[Any, Sequence[float]]]  # label -> value of the option -> a number a seed
_COLUMNS, _TICKS, _DECADES = 3, 12, 50


def over_option_figure(option: str, drawn: Mapping[str, Lines]) -> Figure | None:
    """Draw each panel's lines over the option that names the axis; ``None`` if there is no number.

    A point is the mean of the seeds and its bar their standard deviation; small dots are single runs. A dozen values
    or less stand at equal distances, since 0 and 50 share no useful scale; more are on an axis, a logarithmic one where
    they span decades.
    """
    values = [value for lines in drawn.values() for line in lines.values() for value, found in line.items() if found]
    if not values:
        return None
    figure, grid = panels(len(drawn), _COLUMNS, (3.3, 2.5), (0.7, 0.6))
    place, spaced = _places(values)
    for axes, (title, lines) in zip(grid.ravel(), drawn.items(), strict=False):
        for number, (label, line) in enumerate(lines.items()):
            style: dict[str, Any] = {"color": LINES[number % len(LINES)], "marker": MARKERS[number % len(MARKERS)]}
            style |= {"label": plain(shorten(label, 40)), "linewidth": 1.4 if spaced else 0}
            _line(axes, {place[value]: line[value] for value in place if line.get(value)}, style)
        if spaced:
            ticks = [f"{value:g}" if isinstance(value, float) else str(value) for value in place]
            axes.set_xticks(list(place.values()), [plain(shorten(tick, 12)) for tick in ticks])
            axes.set_xlim(-0.4, len(place) - 0.6)
        elif min(place) > 0 and max(place) / min(place) > _DECADES:
            axes.set_xscale("log")
        axes.set_title(plain(shorten(title, 36)), fontsize=9, color=INK, fontweight="bold", loc="left")
        axes.set_xlabel(plain(option), fontsize=8, color=GREY)
        open_frame(axes)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def _line(axes: Axes, found: Mapping[float, Sequence[float]], style: dict[str, Any]) -> None:
    means, spread = np.nan_to_num([mean_std(numbers) for numbers in found.values()]).reshape(-1, 2).T
    bars = spread if spread.any() else None
    axes.errorbar([*found], means, yerr=bars, markersize=5, capsize=3, elinewidth=1, **style)
    dots = [(x, number) for x, numbers in found.items() if len(numbers) > 1 for number in numbers]
    axes.plot([x for x, _ in dots], [y for _, y in dots], ".", color=style["color"], alpha=0.45, markersize=4)


def _places(values: Sequence[Any]) -> tuple[dict[Any, float], bool]:
    """Where each value stands on the axis, in order, and whether at equal distances."""
    numbers = all(isinstance(value, (int, float)) for value in values)
    ordered = sorted(set(values)) if numbers else list(dict.fromkeys(values))
    spaced = len(ordered) <= _TICKS or not numbers
    return {value: float(i if spaced else value) for i, value in enumerate(ordered)}, spaced
