"""Image, truth and prediction of one slice an experience, after every step."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from lit_continual.reports.figures import GREY, INK, PREDICTION, TRUTH, plain, shorten
from lit_continual.reports.overlay import Overlay
from lit_continual.runs.run import Run

_PAGE, _LEFT, _TOP, _LINE, _GAP = 10.8, 0.42, 0.62, 0.18, 0.1  # inches
_BARS = (5, 10, 20, 50, 100)  # mm
_LEGIBLE = [withStroke(linewidth=1.5, foreground="black")]  # on bright tissue too


def overlays_figure(run: Run, names: bool = True) -> Figure | None:
    """Draw the slices of a run: a row per experience evaluated, a column per step; ``None`` if it stored none.

    Pixels have their physical size. Where an experience has several classes, the structures are numbered and named
    below the row.

    Args:
        run: The run.
        names: Whether patients have their names, or numbers in their place.
    """
    size = range(len(run.experiences))
    found = {(i, j): Overlay.load(path) for i in size for j in size if (path := run.overlay(i, j))}
    if not found:
        return None
    people = list(dict.fromkeys(overlay.patient for overlay in found.values()))
    called = {patient: patient if names else f"case {n}" for n, patient in enumerate(people, start=1)}
    steps = sorted({step for step, _ in found})
    rows = [{i: o for (i, j), o in found.items() if j == on} for on in size]
    wide = min(max((_PAGE - _LEFT) / len(steps) - _GAP, 1.5), 2.8)
    talls = [min(max((wide * o.size[0] / o.size[1] for o in row.values()), default=0.0), 1.25 * wide) for row in rows]
    feet = [2 * _LINE if row and len(next(iter(row.values())).classes) > 1 else _LINE for row in rows]
    width = max(_LEFT + len(steps) * (wide + _GAP), 4.2)
    height = _TOP + sum(tall + foot + _GAP for tall, foot in zip(talls, feet, strict=True) if tall)
    figure, top = Figure(figsize=(width, height)), _TOP
    for column, step in enumerate(steps):
        word = {"continual": "after ", "joint": "all together", "single": "alone: "}[run.mode]
        title = word if run.mode == "joint" else word + shorten(run.experiences[step].name, 20)
        text(figure, _LEFT + column * (wide + _GAP) + wide / 2, _TOP - 0.1, title, 9)
    legend(figure)
    for on, (row, tall, foot) in enumerate(zip(rows, talls, feet, strict=True)):
        if row:
            text(figure, 0.24, top + tall / 2, shorten(run.experiences[on].name, int(tall * 11)), 9, rotation=90)
            for number, (step, overlay) in enumerate(row.items()):
                left = _LEFT + steps.index(step) * (wide + _GAP)
                axes = figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))
                panel(axes, overlay, caption(run, step, on, overlay, called[overlay.patient]))
                if number == 0:
                    bar(axes, overlay)
                    _names(figure, overlay, left, top + tall + 1.6 * _LINE)
            top += tall + foot + _GAP
    return figure


def text(figure: Figure, x: float, y: float, words: str, size: float, **style: Any) -> None:
    """Put words at inches from the upper left corner."""
    width, height = figure.get_size_inches()
    style = {"ha": "center", "va": "center", "color": INK, **style}
    figure.text(x / width, 1 - y / height, plain(words), fontsize=size, **style)


def legend(figure: Figure, region: bool = False) -> None:
    """Say what the lines of panels are, in the upper left corner: truth and prediction, or the border of a region."""
    lines = [("region", TRUTH, "-")] if region else [("truth", TRUTH, "-"), ("prediction", PREDICTION, "--")]
    handles = [Line2D([], [], color=colour, linestyle=style, linewidth=2, label=name) for name, colour, style in lines]
    figure.legend(handles=handles, loc="upper left", ncols=2, fontsize=8, facecolor=INK, labelcolor="white")


def panel(
    axes: Axes,
    overlay: Overlay,
    caption: str,
    truth: bool = True,
    prediction: bool = True,
    uptake: tuple[float, float] | None = None,
) -> None:
    """Draw a slice with the contours of its truth and of a prediction, in mm; as PET is read, between two uptakes."""
    tall, wide = overlay.size
    finite = overlay.image[np.isfinite(overlay.image)]
    low, high = uptake or (np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0))
    colours = "gray_r" if uptake else "gray"
    axes.imshow(overlay.image, cmap=colours, vmin=low, vmax=max(high, low + 1e-6), extent=(0, wide, tall, 0))
    lines = ((truth, overlay.truth, TRUTH, "-"), (prediction, overlay.prediction, PREDICTION, "--"))
    for drawn, masks, colour, style in lines:
        for mask in masks[masks.any((1, 2))] if drawn else ():
            _contour(axes, mask, overlay.spacing, colour, style)
    if len(overlay.classes) > 1 and truth:
        for number, mask in enumerate(overlay.truth, 1):
            for y, x in [np.argwhere(mask).mean(0) + 0.5] if mask.any() else []:
                at = (float(x) * overlay.spacing[1], float(y) * overlay.spacing[0])
                axes.annotate(str(number), at, color=TRUTH, fontsize=7, ha="center", va="center", path_effects=_LEGIBLE)
    axes.set(xlim=(0, wide), ylim=(tall, 0), xticks=[], yticks=[])
    axes.set_xlabel(plain(caption), fontsize=6.5, color=GREY, labelpad=2)
    axes.spines[:].set_visible(False)


def _contour(axes: Axes, mask: NDArray[np.bool_], spacing: tuple[float, float], colour: str, style: str) -> None:
    padded = np.pad(mask.astype(np.float32), 1)  # closes the line of a structure that the edge of the image cuts
    y, x = ((np.arange(n) - 0.5) * mm for n, mm in zip(padded.shape, spacing, strict=True))
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.4)


def bar(axes: Axes, overlay: Overlay, bright: bool = True) -> None:
    """Draw a bar of some round length in mm, ``bright`` on a dark image."""
    tall, wide = overlay.size
    length = max((mm for mm in _BARS if mm <= wide / 3), default=_BARS[0])
    ends = (0.05 * wide, 0.05 * wide + length)
    style: dict[str, Any] = {"color": "white", "path_effects": _LEGIBLE} if bright else {"color": INK}
    axes.plot(ends, [0.95 * tall] * 2, linewidth=2, solid_capstyle="butt", **style)
    axes.text(sum(ends) / 2, 0.93 * tall, f"{length} mm", fontsize=6, ha="center", **style)


def _names(figure: Figure, overlay: Overlay, left: float, top: float) -> None:
    if len(overlay.classes) > 1:
        names = ", ".join(f"{number} {name}" for number, name in enumerate(overlay.classes, 1))
        room = int((figure.get_size_inches()[0] - left) * 20)
        text(figure, left, top, shorten(names, room), 6.5, ha="left", color=GREY)


def caption(run: Run, after: int, on: int, overlay: Overlay, whose: str = "") -> str:
    """``whose`` slice it is, by default by the patient's name, and what its volume scored."""
    words = [slice_name(overlay, 28, whose), scored(run, after, on, overlay)]
    return ", ".join(filter(None, words))


def slice_name(overlay: Overlay, length: int, whose: str = "") -> str:
    """Whose slice it is, and which, in about ``length`` characters: it is the patient's name that is shortened."""
    number = f", slice {overlay.slice}"
    return shorten(whose or overlay.patient, max(length - len(number), 3)) + number


def scored(run: Run, after: int, on: int, overlay: Overlay) -> str:
    """What a volume scored in its classes; empty where they are none, or too many for a line."""
    score = run.scores[0]
    cases = {c.label: c for c in run.cases if (c.after, c.on, c.patient, c.volume) == (after, on, *overlay.whose)}
    values = [score.text(cases[name].values[score.name]) for name in overlay.classes if name in cases]
    return f"{score.title} {' / '.join(values)}" if 0 < len(values) <= 2 else ""
