"""From files to arrays: loading, checking, and bringing volumes to one grid and intensity scale."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage, Orientation, Spacing, SpatialPad
from torch import Tensor

from lit_continual.data.cases import Case, CaseList
from lit_continual.spec import build

NORMALISE: dict[str, Any] = {"class_path": "NormalizeIntensity", "init_args": {"channel_wise": True}}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image, in training and ever after; a checkpoint remembers it.

    Args:
        orientation: Axis codes that the array is turned to, such as ``RAS``; ``None`` leaves it as stored.
        spacing: Voxel size in mm that the image is resampled to; ``None`` leaves it. A negative or zero entry leaves
            that axis.
        normalise: Transforms of MONAI on the image, one after another, as ``class_path`` and ``init_args``.
    """

    orientation: str | None = "RAS"
    spacing: tuple[float, ...] | None = None
    normalise: tuple[dict[str, Any], ...] = field(default_factory=lambda: (NORMALISE,))

    def transforms(self) -> tuple[list[Any], Any]:
        """Build the transforms of the grid, with an interpolation mode to be given, and of the intensities."""
        grid = [Orientation(axcodes=self.orientation)] if self.orientation else []
        grid += [Spacing(pixdim=self.spacing)] if self.spacing else []
        return grid, Compose([build(spec, ["monai.transforms"]) for spec in self.normalise])


def load_case(case: Case, preprocessing: Preprocessing) -> dict[str, Any]:
    """Load the image of a case and bring it to the grid and scale of ``preprocessing``.

    Returns:
        ``image`` ``(C, H, W, D)`` float32; ``affine`` of it; ``source_affine``, ``source_shape`` and ``spacing`` (mm) of
        the file's grid; ``patient`` and ``path``.

    Raises:
        ValueError: If a file cannot be read, has voxels that are not finite, or channels of different grids.
    """
    channels = [_read(path) for path in case.images]
    for path, channel in zip(case.images[1:], channels[1:], strict=True):
        _require_one_grid(case.images[0], channels[0], path, channel)
    source = channels[0]
    image = MetaTensor(torch.cat([c.as_tensor() for c in channels]).float(), affine=source.affine)
    if bad := int((~image.as_tensor().isfinite()).sum()):
        raise ValueError(f"{case.images[0]} has {bad} voxels that are nan or infinite. Repair or remove the image.")
    grid, normalise = preprocessing.transforms()
    for transform in grid:
        image = transform(image)
    affine = torch.as_tensor(image.affine, dtype=torch.float64)
    return {
        "image": torch.as_tensor(normalise(image.as_tensor())).float(),
        "affine": affine,
        "source_affine": torch.as_tensor(source.affine, dtype=torch.float64),
        "source_shape": torch.tensor(source.shape[1:]),
        "spacing": torch.as_tensor(source.affine, dtype=torch.float64)[:3, :3].norm(dim=0),
        "patient": case.patient,
        "path": str(case.images[0]),
    }


def load_label(case: Case, classes: Mapping[str, int], listed: CaseList) -> MetaTensor:
    """Load the label map of a case in its own grid, with 1, 2, … for the revealed classes in order and 0 elsewhere.

    Returns:
        ``(1, H, W, D)`` uint8.

    Raises:
        ValueError: If there is no label, it has another shape or affine than the image, or values nobody declared.
    """
    if case.label is None:
        raise ValueError(f"{case.images[0]} has no label in {listed.source}. Add one to train or evaluate on it.")
    label = _read(case.label)
    _require_one_grid(case.images[0], _read(case.images[0]), case.label, label)
    values = label.as_tensor()
    found = {float(v) for v in values.unique()}
    declared = {0, *(listed.labels.values() or (int(v) for v in found if v.is_integer())), *classes.values()}
    if unknown := sorted(found - declared):
        raise ValueError(
            f"{case.label} has the label value {unknown[0]:g}, which is not declared ({sorted(declared)})."
            f" Declare it under `labels` in {listed.source} or correct the label map."
        )
    revealed = torch.zeros(values.shape, dtype=torch.uint8)
    for k, value in enumerate(classes.values(), start=1):
        revealed[values == value] = k
    return MetaTensor(revealed, affine=label.affine)


def load_training_volume(
    case: Case, classes: Mapping[str, int], listed: CaseList, preprocessing: Preprocessing, patch_size: tuple[int, ...]
) -> dict[str, Any]:
    """Load image and label on the preprocessed grid, padded to at least ``patch_size``."""
    volume = load_case(case, preprocessing)
    label = load_label(case, classes, listed)
    for transform in preprocessing.transforms()[0]:
        label = transform(label, mode="nearest") if isinstance(transform, Spacing) else transform(label)
    pad = SpatialPad((*patch_size, *[1] * (3 - len(patch_size))))
    return {
        "image": pad(volume["image"]).as_tensor(),
        "label": pad(label.as_tensor()).as_tensor().to(torch.uint8),
        "patient": volume["patient"],
        "classes": ",".join(classes),
    }


def load_evaluation_volume(
    case: Case, classes: Mapping[str, int], listed: CaseList, preprocessing: Preprocessing
) -> dict[str, Any]:
    """Load the image on the preprocessed grid and the label in the grid of its file."""
    label: Tensor = load_label(case, classes, listed).as_tensor()
    return {**load_case(case, preprocessing), "label": label, "classes": ",".join(classes)}


def _read(path: Path) -> MetaTensor:
    try:
        image: MetaTensor = LoadImage(image_only=True, ensure_channel_first=True, dtype=None)(str(path))
        if image.dtype not in (torch.float32, torch.float64):
            image = image.to(torch.float32 if image.dtype is torch.bool else image.dtype)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as an image ({reason}). Replace it or take it off the list."
        ) from error
    if image.ndim == 3:
        return MetaTensor(image.as_tensor()[..., None], affine=image.affine)
    return image


def _require_one_grid(path: Path, image: MetaTensor, other_path: Path, other: MetaTensor) -> None:
    if image.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"{other_path} has shape {tuple(other.shape[1:])} and {path} {tuple(image.shape[1:])}: they must be on one"
            " grid. Resample one onto the other."
        )
    if not np.allclose(image.affine, other.affine, atol=1e-2):
        raise ValueError(
            f"{other_path} and {path} have different affines: they lie at different places in space. Resample one onto"
            " the other, or correct the header."
        )
