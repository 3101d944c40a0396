"""In which direction, on which grid and through which window a network looks at volumes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lit_continual.tools.init.case_facts import CaseFacts

COARSE = 3.0  # voxels so many times as long as wide: nnU-Net's bound for what it does not interpolate through
FEW = 16  # slices, too few to halve four times
STEP, LEAST, MOST = 16, 32, 512  # voxels of a window's side: four times halved, with something left, and at most


@dataclass(frozen=True)
class Geometry:
    """How volumes are turned, resampled and cut.

    Attributes:
        orientation: Axis codes of the array.
        spacing: Voxel size in mm along these axes; -1 leaves an axis as it is, ``None`` all.
        size: Median size of a volume on that grid.
        dims: 2 for slices across the last axis, 3 for volumes.
        why: Why so, in a sentence each: of ``orientation``, ``spacing`` and ``dims``.
    """

    orientation: str
    spacing: tuple[float, ...] | None
    size: tuple[int, ...]
    dims: int
    why: dict[str, str]


def geometry_of(cases: Sequence[CaseFacts]) -> Geometry:
    """Choose the grid for all cases together."""
    sizes, shapes = np.array([c.spacing for c in cases]), np.array([c.shape for c in cases])
    middle = np.median(sizes, axis=0)
    ratio = float(middle.max() / np.median(middle))
    across = int(np.argmax(middle)) if ratio >= 1.5 else int(np.argmin(np.median(shapes, axis=0)))
    few = float(np.median(shapes[:, across]))
    flat = ratio >= COARSE or few < FEW
    order = [axis for axis in range(3) if axis != across] + [across] if flat else [0, 1, 2]
    orientation = "".join("RAS"[axis] for axis in order)
    wanted = np.array([float(f"{mm:.3g}") for mm in middle[order]])
    kept = [2] if flat else []
    apart = [k for k in range(3) if k not in kept and (np.abs(sizes[:, order[k]] / wanted[k] - 1) > 0.02).any()]
    spacing = tuple(-1.0 if k in kept else float(wanted[k]) for k in range(3)) if apart else None
    scale = np.where([k in kept or not apart for k in range(3)], 1.0, sizes[:, order] / wanted)
    size = tuple(int(n) for n in np.maximum(np.median(np.round(shapes[:, order] * scale), axis=0), 1))
    say = f"voxels of {by(middle[order])} mm, {few:.0f} slices along the last axis (medians)"
    why = {
        "dims": f"2D: {say} are too few or too far apart for 3D."
        if flat
        else f"3D: voxels of {by(middle)} mm are nearly cubes (medians).",
        "orientation": f"The slices of a 2D network lie across the last axis, {orientation[-1]}."
        if across != 2 and flat
        else "",
        "spacing": "Voxel sizes differ: images are resampled to the median." if apart else "",
    }
    return Geometry(orientation, spacing, size, 2 if flat else 3, why)


def patch_of(size: Sequence[int], dims: int, fits: Callable[[list[int]], bool]) -> list[int]:
    """Choose the window: as large as a median volume, less where that does not fit.

    Args:
        size: Median size of a volume.
        dims: 2 or 3.
        fits: Whether there is memory for a window.

    Returns:
        A multiple of 16 along each axis.

    Example:
        >>> patch_of((36, 50, 35), 3, lambda patch: True)
        [48, 64, 48]
        >>> patch_of((300, 200, 100), 3, lambda patch: patch[0] * patch[1] * patch[2] < 1e6)
        [176, 112, 48]
    """
    patch = [min(max(-(-n // STEP) * STEP, LEAST if dims == 2 else STEP), MOST) for n in size[:dims]]
    patch[patch.index(max(patch))] = max(*patch, LEAST)
    while not fits(patch) and max(patch) > LEAST:
        largest = max(range(dims), key=lambda k: (patch[k] > LEAST, patch[k] / size[k], patch[k]))
        patch[largest] -= STEP
    return patch


def by(numbers: Iterable[float]) -> str:
    """Write sizes as ``0.8 x 0.8 x 2``."""
    return " x ".join(f"{n:.3g}" for n in numbers)
