"""A study before and after a segmenter was adapted to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lit_continual.files.whole_files import replaced
from lit_continual.reports.figures import GREY, INK, PREDICTION, TRUTH
from lit_continual.reports.overlay import Overlay
from lit_continual.reports.overlays import panel
from lit_continual.reports.report import png
from lit_continual.tools.adapt.annotation import Annotation


def write_adaptation(
    path: Path,
    image: NDArray[Any],
    annotation: Annotation,
    before: NDArray[Any],
    after: NDArray[Any],
    spacing: Sequence[float],
    classes: Sequence[str],
) -> None:
    """Draw an annotated slice, and of the others the one that adapting changed most, before and after.

    Args:
        path: The file.
        image: ``(H, W, D)``.
        annotation: What was known.
        before: Label map ``(H, W, D)`` of the network as it came.
        after: Label map of the adapted one.
        spacing: Voxel size in mm.
        classes: What the label values stand for.
    """
    label, annotated = annotation.label[0].numpy(), annotation.annotated[0].numpy()
    known = [bool(annotated[..., z].any()) for z in range(annotated.shape[-1])]
    rows = _slices(label, known, before, after)
    figure = Figure(figsize=(6.4, 0.5 + 3.2 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for line, z in zip(grid, rows, strict=True):
        for axes, (title, found) in zip(line, (("before", before), ("after", after)), strict=True):
            truth, prediction = (_masks(volume[..., z], len(classes)) for volume in (label, found))
            plane, mm = np.rot90(image[..., z].astype(np.float32)), (float(spacing[1]), float(spacing[0]))
            overlay = Overlay(plane, truth, prediction, tuple(classes), "", mm, z)
            panel(axes, overlay, f"slice {z}, {'annotated' if known[z] else 'not annotated'}", truth=known[z])
            axes.set_title(title, fontsize=9, color=INK, loc="left")
    lines = (("annotation", TRUTH, "-"), ("prediction", PREDICTION, "--"))
    handles = [Line2D([], [], color=colour, linestyle=style, linewidth=2, label=name) for name, colour, style in lines]
    legend = {"loc": "outside lower center", "ncols": 2, "fontsize": 8, "facecolor": GREY, "labelcolor": "white"}
    figure.legend(handles=handles, **legend)
    with replaced(path) as temporary:
        temporary.write_bytes(png(figure))


def _slices(label: NDArray[Any], known: Sequence[bool], before: NDArray[Any], after: NDArray[Any]) -> list[int]:
    """The annotated slice with the largest label, and of the others the one that has changed most."""
    labelled, changed = (label > 0).sum((0, 1)), (before != after).sum((0, 1)) + (after > 0).any((0, 1))
    of_known, of_others = np.where(known, labelled, -1), np.where(known, -1, changed)
    return [int(of_known.argmax()), *([] if all(known) else [int(of_others.argmax())])]


def _masks(plane: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    """The mask of each class in a slice of a label map, turned so that the second axis points up."""
    return np.stack([np.rot90(plane == value) for value in range(1, classes + 1)])
