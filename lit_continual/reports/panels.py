"""Grids of panels, and the frame that panels with curves share."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_continual.reports.shades import RULE


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
