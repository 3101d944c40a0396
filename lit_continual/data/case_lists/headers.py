"""What the headers of images say, before any is read."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import nibabel as nib

from lit_continual.data.case_lists.cases import Case
from lit_continual.files.whole_files import explaining
from lit_continual.images.file_names import is_nifti


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


def require_labels_on_images(cases: Sequence[Case]) -> None:
    """Check by their headers that each label map has the size of its image.

    Raises:
        ValueError: If a header cannot be read, or one has not.
    """
    for case in cases:
        image, label = shape_of(case.images[0])[:3], shape_of(case.label)[:3] if case.label is not None else ()
        if image and label and image != label:
            raise ValueError(
                f"{case.label} has shape {label} and {case.images[0]} {image}: they must be on one grid. Resample one"
                " onto the other."
            )


def shape_of(path: Path) -> tuple[int, ...]:
    """Return the shape in the header of a NIfTI file; nothing of other files.

    Raises:
        ValueError: If the header cannot be read.
    """
    if not is_nifti(path):
        return ()
    with explaining(f"{path} cannot be read as an image", "Replace it or take it off the list.", Exception):
        return tuple(nib.load(path).shape)
