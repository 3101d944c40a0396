"""Sizes of windows that a volume can be gone over with."""

from collections.abc import Sequence
from math import prod
from pathlib import Path


def require_near_size(window: Sequence[int], shape: Sequence[int], path: Path | str = "a volume") -> None:
    """Refuse a window that is nearly all padding, and so large that there would be no end to it.

    Raises:
        ValueError: If it has more than a million voxels, and more than 64 times those of the volume.
    """
    if prod(window) >= 2**20 and prod(window) > 64 * prod(shape[: len(window)]):
        raise ValueError(
            f"A patch of {' x '.join(map(str, window))} voxels is nearly all padding on {path} of"
            f" {' x '.join(map(str, shape))}. Give a smaller `patch_size` or `roi_size`."
        )


def require_few_windows(window: Sequence[int], shape: Sequence[int], overlap: float) -> None:
    """Refuse windows so small, or so much on one another, that there would be no end to going over a volume.

    Raises:
        ValueError: If there are more than ten million.
    """
    sizes = [*window, *[1] * (len(shape) - len(window))]  # slice by slice
    steps = [max(1, int(size * (1 - overlap))) for size in sizes]
    count = prod(1 + max(0, -(-(n - size) // step)) for n, size, step in zip(shape, sizes, steps, strict=True))
    if count > 10_000_000:
        raise ValueError(
            f"Windows of {' x '.join(map(str, window))} voxels with an `overlap` of {overlap:g} are {count:,} on a"
            f" volume of {' x '.join(map(str, shape))}. Give a larger `roi_size` or a smaller `overlap`."
        )
