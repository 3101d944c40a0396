"""What figures share: panels, and colours of one meaning everywhere, which colour-blind readers can tell apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lit_continual.files.printing import printable
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score

DPI = 180
INK, GREY, RULE = "#1b2733", "#5d6b78", "#c9d1d8"
TRUTH, PREDICTION = "#f59b00", "#2f9bff"  # orange and blue, seen on dark and on bright tissue
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")
MARKERS = "osD^vP*X"
_DASHES = {"continual": "-", "joint": "--", "single": ":"}


@dataclass(frozen=True)
class Scale:
    """The colour scale of one score, the same for every run of a report; dark is good, whatever the direction."""

    low: float
    high: float
    higher_is_better: bool

    def colour(self, value: float) -> tuple[str, str]:
        """Background and ink for a cell of this value.

        Example:
            >>> Scale(0, 1, True).colour(0.0) == Scale(0, 1, False).colour(1.0)
            True
        """
        share = min(max((value - self.low) / ((self.high - self.low) or 1.0), 0.0), 1.0)
        red, green, blue, _ = colormaps["YlGnBu"](0.04 + 0.82 * (share if self.higher_is_better else 1 - share))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        return to_hex((red, green, blue)), "#ffffff" if dark else INK


def scale_of(runs: Iterable[Run], score: Score) -> Scale:
    """0 to 1 for a score that stays in there and has no unit, such as Dice; else from 0 over the range of all runs."""
    found = [run.matrix[score.name].ravel() for run in runs if score.name in run.matrix]
    values = np.concatenate(found) if found else np.empty(0)
    values = values[np.isfinite(values)]
    low, high = min([0.0, *values]), max([0.0, *values])
    if not score.unit and low >= 0 and high <= 1:
        return Scale(0.0, 1.0, score.higher_is_better)
    return Scale(float(low), float(high) or 1.0, score.higher_is_better)


def line_styles(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Matplotlib's words for the line of each run; runs of one name, which differ in their seed, share theirs."""
    names = list(dict.fromkeys((run.name, run.mode) for run in runs))
    found = []
    for run in runs:
        number = names.index((run.name, run.mode))
        style = {"color": LINES[number % len(LINES)], "linestyle": _DASHES[run.mode]}
        if run.mode == "continual":  # hollow, so that markers on one spot stay visible
            style |= {"marker": MARKERS[number % len(MARKERS)], "markerfacecolor": "none"}
        found.append(style)
    return found


def plain(text: str) -> str:
    """Text that Matplotlib shows as it stands, dollar signs and characters without a picture included."""
    return printable(text).replace("$", r"\$")


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the middle left out.

    Example:
        >>> shorten("left submandibular gland", 13)
        'left s… gland'
    """
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def panels(
    count: int, most: int, size: tuple[float, float], margin: tuple[float, float] = (0.0, 0.0), **options: Any
) -> tuple[Figure, Any]:
    """A figure, and ``count`` panels in it, at most ``most`` side by side, as an array ``(lines, columns)``.

    Sizes are in inches, ``margin`` that of what is around all panels; options are those of ``Figure.subplots``.
    """
    columns = min(count, most)
    lines = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns + margin[0], size[1] * lines + margin[1]), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, **options)
    for axes in grid.ravel()[count:]:
        axes.set_axis_off()
    return figure, grid


def open_frame(axes: Axes) -> None:
    """Rule a panel with pale lines, and leave it open above and on the right."""
    axes.tick_params(labelsize=7, color=RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
