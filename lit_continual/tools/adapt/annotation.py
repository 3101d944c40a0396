"""A label map of a part of an image: which voxels are annotated, and as what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_continual.images.reading import label_values, read_volume, require_one_grid

LARGEST = 2**24  # label value that single precision tells from the next


class Annotation(NamedTuple):
    """What is known of an image, in the grid of its file.

    Attributes:
        label: ``(1, H, W, D)``, 0 or the place of a class, from 1.
        annotated: ``(1, H, W, D)``, where it is known.
    """

    label: Tensor
    annotated: Tensor


def read_annotation(
    path: Path,
    image: Any,
    classes: Sequence[str],
    slices: Sequence[int] | None = None,
    ignore: int | None = None,
) -> Annotation:
    """Read a label map of which a part counts.

    Args:
        path: The file, on the grid of the image's file.
        image: A sample as ``load_case`` returns it.
        classes: What the values 1, 2, … stand for.
        slices: The slices along the last axis, from 0, that are annotated; by default those that hold a label.
        ignore: The value of voxels that are not annotated; without it, all of an annotated slice is.

    Raises:
        ValueError: If the file cannot be read or is on another grid, a value stands for no class, a slice is not
            there, a label is outside of the slices, or nothing is annotated.
    """
    if slices is not None and ignore is not None:
        raise ValueError("Give `--slices` or `--ignore`, not both: each says which voxels are annotated.")
    if abs(ignore or 0) > LARGEST:
        raise ValueError(f"`--ignore` must be a label value, of up to {LARGEST}, got {ignore}.")
    volume = read_volume(path)
    affine = torch.tensor(image["source_affine"], dtype=torch.float64)
    require_one_grid(Path(image["path"]), image["source_shape"], affine, path, volume.shape[1:], volume.affine)
    if len(volume) > 1:
        raise ValueError(f"{path} has {len(volume)} channels. Give one label map with a value for each class.")
    values = label_values(volume)
    left_out = values == ignore if ignore is not None else torch.zeros_like(values, dtype=torch.bool)
    label = values.masked_fill(left_out, 0)
    _check_values(path, label, classes)
    annotated = ~left_out if ignore is not None else _in_slices(path, label, slices)
    if not annotated.any():
        raise ValueError(
            f"{path} has no annotated voxel. Annotate a slice, or name the slices that are annotated, though nothing is"
            " there, by --slices."
        )
    return Annotation(label.long(), annotated)


def _check_values(path: Path, label: Tensor, classes: Sequence[str]) -> None:
    known = range(len(classes) + 1)
    if unknown := [value for value in torch.unique(label).tolist() if value not in known]:
        names = ", ".join(f"{value} {name}" for value, name in enumerate(classes, start=1))
        raise ValueError(
            f"{path} has the label value {unknown[0]:g}, and the checkpoint knows {names}. Correct the label map, or"
            f" give the value of voxels that are not annotated by --ignore."
        )


def _in_slices(path: Path, label: Tensor, slices: Sequence[int] | None) -> Tensor:
    """The voxels ``(1, H, W, D)`` of the annotated slices."""
    depth = label.shape[-1]
    labelled = label[0].flatten(0, 1).any(0).nonzero().flatten().tolist()
    known = labelled if slices is None else slices
    if wrong := [z for z in known if not 0 <= z < depth]:
        raise ValueError(f"`--slices` names slice {wrong[0]}, and {path} has slices 0 to {depth - 1}. Correct it.")
    if missing := sorted(set(labelled) - set(known)):
        raise ValueError(
            f"{path} has labels in slice {missing[0]}, which `--slices` does not name. Name it, counted from 0, or take"
            " its labels away."
        )
    annotated = torch.zeros_like(label, dtype=torch.bool)
    annotated[..., list(known)] = True
    return annotated
