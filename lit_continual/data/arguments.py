"""Checks of numbers that a config gives."""

from collections.abc import Sequence
from math import prod
from pathlib import Path


def require_at_least(least: int, **given: int | None) -> None:
    """Check that each number that is given is ``least`` or more.

    Raises:
        ValueError: If one is less.

    Example:
        >>> require_at_least(1, batch_size=4, samples_per_epoch=None)
    """
    for name, value in given.items():
        if value is not None and value < least:
            raise ValueError(f"`{name}` must be {least} or more, got {value}.")


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
