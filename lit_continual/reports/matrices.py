"""Result matrices as heat maps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lit_continual.reports.run import Run, Score
from lit_continual.reports.shades import GREY, INK, RULE, Scale, plain, scale_of, shorten
from lit_continual.reports.summary import labels

_COLUMNS = 3


def matrix_figure(runs: Sequence[Run], score: Score) -> Figure:
    """Draw the matrix of each run side by side on one colour scale.

    Rows are the last experience learnt, columns the experience evaluated. Hatched cells were not evaluated or are
    undefined; a frame marks the diagonal, where an experience was just learnt.
    """
    scale, largest = scale_of(runs, score), max(len(run.experiences) for run in runs)
    columns = min(len(runs), _COLUMNS)
    lines = -(-len(runs) // columns)
    side = 1.5 + 0.62 * largest
    figure = Figure(figsize=(columns * (side + 0.3) + 0.9, lines * side + 0.3), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(runs) :]:
        axes.set_axis_off()
    for axes, run, label in zip(grid, runs, labels(runs), strict=False):
        _heat_map(axes, run, score, scale)
        axes.set_title(plain(shorten(label, 14 + 6 * largest)), fontsize=9, color=INK, fontweight="bold")
    shades = ListedColormap([scale.colour(v)[0] for v in np.linspace(scale.low, scale.high, 128)])
    bar = figure.colorbar(
        ScalarMappable(Normalize(scale.low, scale.high), shades), ax=list(grid), shrink=0.7, aspect=25, pad=0.02
    )
    bar.set_label(plain(f"{score.title}, {'higher' if score.higher_is_better else 'lower'} is better"), fontsize=8)
    bar.outline.set_edgecolor(RULE)
    bar.ax.tick_params(labelsize=7, color=RULE)
    return figure


def _heat_map(axes: Axes, run: Run, score: Score, scale: Scale) -> None:
    size = len(run.experiences)
    R = run.values(score)
    for (i, j), value in np.ndenumerate(R):
        known = np.isfinite(value)
        background, ink = scale.colour(value) if known else ("white", INK)
        style = {"edgecolor": "white"} if known else {"edgecolor": RULE, "hatch": "////", "linewidth": 0.0}
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=background, **style))
        if known:
            axes.text(j, i, score.text(value), ha="center", va="center", fontsize=7.5, color=ink)
    for i in range(size):
        axes.add_patch(Rectangle((i - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.1))
    names = [plain(shorten(e.name, 16)) for e in run.experiences]
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.set_xticks(
        range(size), names, fontsize=7.5, rotation=0 if size * max(map(len, names)) < 24 else 40, ha="right"
    )
    axes.set_yticks(range(size), names, fontsize=7.5)
    if axes.get_xticklabels()[0].get_rotation() == 0:
        axes.set_xticks(range(size), names, fontsize=7.5, ha="center")
    axes.set_xlabel("evaluated on", fontsize=8, color=GREY)
    axes.set_ylabel("trained on all" if run.mode == "joint" else "after", fontsize=8, color=GREY)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
