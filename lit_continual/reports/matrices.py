"""Result matrices as heat maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lit_continual.reports.figures import GREY, INK, RULE, Scale, panels, plain, scale_of, shorten
from lit_continual.reports.summary import labels
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score

_COLUMNS = 3


def matrix_figure(runs: Sequence[Run], score: Score) -> Figure:
    """Draw the matrix of each run side by side on one colour scale.

    Rows are the last experience learnt, columns the experience evaluated. Hatched entries were not evaluated or are
    undefined; a frame marks the diagonal, where an experience was just learnt.
    """
    scale, largest = scale_of(runs, score), max(len(run.experiences) for run in runs)
    side = 1.0 + 0.58 * largest
    figure, grid = panels(len(runs), _COLUMNS, (side + 0.3, side), (0.9, 0.3))
    for axes, run, label in zip(grid.ravel(), runs, labels(runs), strict=False):
        _heat_map(axes, run, score, scale)
        axes.set_title(plain(shorten(label, 14 + 6 * largest)), fontsize=9, color=INK, fontweight="bold")
    shades = ListedColormap([scale.colour(v)[0] for v in np.linspace(scale.low, scale.high, 128)])
    bar = figure.colorbar(
        ScalarMappable(Normalize(scale.low, scale.high), shades), ax=list(grid.ravel()), shrink=0.7, aspect=25, pad=0.02
    )
    bar.set_label(plain(f"{score.title}, {'higher' if score.higher_is_better else 'lower'} is better"), fontsize=8)
    bar.outline.set_edgecolor(RULE)
    bar.ax.tick_params(labelsize=7, color=RULE)
    return figure


def _heat_map(axes: Axes, run: Run, score: Score, scale: Scale) -> None:
    rows, size, R = run.rows(), len(run.experiences), run.values(score)
    for y, (_, i) in enumerate(rows):
        for x, value in enumerate(R[i]):
            _entry(axes, x, y, score.text(value), scale.colour(value) if np.isfinite(value) else None)
            if x == i and run.mode == "continual" and np.isfinite(value):
                frame = Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.1)
                axes.add_patch(frame)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(len(rows) - 0.5, -0.5), aspect="equal")
    names = [plain(shorten(e.name, 16)) for e in run.experiences]
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(size), names, **(turned if max(map(len, names)) > 9 else {}))
    axes.set_yticks(range(len(rows)), [plain(shorten(title, 16)) for title, _ in rows])
    axes.set_xlabel("evaluated on", fontsize=8, color=GREY)
    axes.set_ylabel({"continual": "after", "joint": "", "single": "trained on"}[run.mode], fontsize=8, color=GREY)
    axes.tick_params(length=0, labelsize=7.5)
    axes.spines[:].set_visible(False)


def _entry(axes: Axes, x: int, y: int, text: str, colour: tuple[str, str] | None) -> None:
    if colour is None:
        style: dict[str, Any] = {"facecolor": "white", "edgecolor": RULE, "hatch": "////", "linewidth": 0.0}
    else:
        style = {"facecolor": colour[0], "edgecolor": "white"}
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color=colour[1])
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **style))
