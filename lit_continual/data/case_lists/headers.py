"""What the headers of images say, before any is read."""

import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path

import nibabel as nib
import torch
from torch import Tensor

from lit_continual.data.case_lists.cases import Case
from lit_continual.files.whole_files import explaining
from lit_continual.images.file_names import is_nifti
from lit_continual.images.nifti import nifti_affine
from lit_continual.images.reading import require_numbers, require_one_grid


def channels_of(cases: Sequence[Case]) -> int | None:
    """Return how many channels the images of ``cases`` have; ``None`` where no header is NIfTI's.

    Raises:
        ValueError: If a header cannot be read, an image has more than three dimensions and channels, or one has other
            channels than the others.
    """
    counts = [_channels(case) for case in cases]
    known = [count for count in counts if count is not None]
    usual = max(known, key=known.count) if known else None
    for case, count in zip(cases, counts, strict=True):
        if count is not None and usual is not None and count != usual:
            raise ValueError(
                f"{case.images[0]} has {count} channels, and {known.count(usual)} of {len(known)} images have"
                f" {usual}. Give every image the same ones, or take this one off the list."
            )
    return usual


def _channels(case: Case) -> int | None:
    shapes = [shape_of(path) for path in case.images]
    for path, shape in zip(case.images, shapes, strict=True):
        if sum(n != 1 for n in shape[3:]) > 1:
            raise ValueError(f"{path} has shape {shape}. Give an image of two or three dimensions, and channels.")
    return sum(prod(shape[3:]) for shape in shapes) if all(shapes) else None


def require_one_place(cases: Sequence[Case]) -> None:
    """Check by their headers that files can be images, and that those of a case, and its label map, are on one grid.

    Raises:
        ValueError: If a header cannot be read, is of no image that has a place, or lies elsewhere than another.
    """
    for case in cases:
        known = [(path, grid) for path in case.files if (grid := _grid_of(path)) is not None]
        for path, grid in known[1:]:
            require_one_grid(known[0][0], *known[0][1], path, *grid)


def _grid_of(path: Path) -> tuple[tuple[int, ...], Tensor] | None:
    """Voxels along three axes and the affine of a NIfTI file."""
    shape = shape_of(path)
    if not shape:
        return None
    require_numbers(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two affines: whoever reads the file warns of it
        return (*shape, 1, 1)[:3], torch.from_numpy(nifti_affine(path))


def shape_of(path: Path) -> tuple[int, ...]:
    """Return the shape in the header of a NIfTI file; nothing of other files.

    Raises:
        ValueError: If the header cannot be read.
    """
    if not is_nifti(path):
        return ()
    with explaining(f"{path} cannot be read as an image", "Replace it or take it off the list.", Exception):
        return tuple(nib.load(path).shape)
