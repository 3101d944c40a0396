"""A study before and after a denoiser was adapted to it."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_continual.files.whole_files import replaced
from lit_continual.reports.figures import INK
from lit_continual.reports.report import png


def write_adaptation(path: Path, image: NDArray[Any], before: NDArray[Any], after: NDArray[Any]) -> None:
    """Draw the slice that adapting changed most, of volumes ``(D, H, W)``."""
    at = int(np.square(after - before).sum((1, 2)).argmax())
    change = after - before
    span = float(np.percentile(np.abs(change), 99.9)) or 1.0
    volumes = {"noisy": image, "before": before, "after": after}
    figure = Figure(figsize=(11.5, 2.9), layout="constrained")
    grid = figure.subplots(1, 4)
    top = float(np.percentile(image[at], 99.9))
    for axes, (title, volume) in zip(grid, volumes.items(), strict=False):
        axes.imshow(np.rot90(volume[at]), cmap="gray_r", vmin=0, vmax=top or 1.0)
        axes.set_title(title if title == "noisy" else f"denoised, {title}", fontsize=9, color=INK, loc="left")
    shown = grid[-1].imshow(np.rot90(change[at]), cmap="RdBu_r", vmin=-span, vmax=span)
    grid[-1].set_title("after less before", fontsize=9, color=INK, loc="left")
    figure.colorbar(shown, ax=grid[-1], shrink=0.8).ax.tick_params(labelsize=7)
    for axes in grid:
        axes.set_axis_off()
    with replaced(path) as temporary:
        temporary.write_bytes(png(figure))
