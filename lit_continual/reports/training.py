"""A logged value over the training steps, a line for each method."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lit_continual.reports.comparison import Line
from lit_continual.reports.logged import logged_steps
from lit_continual.reports.panels import open_frame
from lit_continual.reports.shades import GREY, INK, LINES, plain, shorten


def training_figure(lines: Sequence[Line], name: str) -> Figure | None:
    """Draw what the runs of each method logged under ``name``: the mean over the seeds, and their range as a band.

    Steps count through all experiences of a run. ``None`` if nobody logged it.
    """
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for number, line in enumerate(lines):
        runs = [values for run in line.runs if (values := logged_steps(run.folder).get(name))]
        steps = sorted(set.intersection(*(set(values) for values in runs))) if runs else []
        if steps:
            found = np.array([[run[step] for step in steps] for run in runs])
            colour = LINES[number % len(LINES)]
            axes.plot(steps, found.mean(0), color=colour, linewidth=1.4, label=plain(shorten(line.method, 40)))
            axes.fill_between(steps, found.min(0), found.max(0), color=colour, alpha=0.15, linewidth=0)
    if not axes.lines:
        return None
    axes.set_title(plain(name), fontsize=9, color=INK, fontweight="bold", loc="left")
    axes.set_xlabel("training step", fontsize=8, color=GREY)
    open_frame(axes)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
