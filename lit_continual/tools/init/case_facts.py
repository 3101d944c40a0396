"""What one annotated image holds, and everything that is wrong with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from lit_continual.data.case_lists.cases import Case, CaseList
from lit_continual.images.reading import read_volume, require_one_grid

T = TypeVar("T")
SAMPLED = 10_000  # foreground voxels of a case, as many as nnU-Net takes
VALUES = 256  # of a label map, above which it is none


@dataclass(frozen=True)
class CaseFacts:
    """What is known of one image. Axes are those of the patient: to the right, to the front, upwards.

    Attributes:
        case: Whose it is.
        shape: Voxels along each axis.
        spacing: Their size along each axis, in mm.
        foreground: ``(channels, n)``, intensities of some annotated voxels.
        voxels: Number of voxels of each label value but 0.
        annotated: Share of the slices across each axis that have an annotated voxel.
        zeros: Share of the voxels that are 0 in all channels.
        outlying: The highest intensity of a channel above its median, in distances of the 99.5th percentile from it.
        lowest: The lowest intensity.
    """

    case: Case
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    foreground: NDArray[np.float32]
    voxels: dict[int, int]
    annotated: tuple[float, ...]
    zeros: float
    outlying: float
    lowest: float


def examine(case: Case, listed: CaseList, report: Callable[[str], None]) -> CaseFacts | None:
    """Read image and label map of a case.

    Args:
        case: What is read.
        listed: Its data set, which declares its channels and label values or not.
        report: Given each sentence that says what is wrong.

    Returns:
        The facts; ``None`` where something is wrong.
    """
    faults: list[str] = []
    files = case.files
    volumes = [_tried(faults, read_volume, path) for path in files]
    images, label = volumes[: len(case.images)], volumes[-1] if case.label else None
    if case.label is None:
        faults.append(f"{case.images[0]} has no label in {listed.source}. Add one, or take it off the list.")
    for path, image in zip(case.images, images, strict=True):
        if image is not None and (bad := int((~image.isfinite()).sum())):
            faults.append(f"{path} has {bad} voxels that are nan or infinite. Repair or remove the image.")
    first = images[0]
    for file, other in zip(files[1:], volumes[1:], strict=True):
        if first is not None and other is not None:
            _tried(
                faults,
                require_one_grid,
                case.images[0],
                first.shape[1:],
                first.affine,
                file,
                other.shape[1:],
                other.affine,
            )
    counts = {} if label is None or case.label is None else _label_values(label, case.label, listed, faults)
    found = [image for image in images if image is not None]
    if len(found) == len(images) and listed.channels and (count := sum(map(len, found))) != len(listed.channels):
        faults.append(
            f"{case.images[0]} has {count} channels, and {listed.source} names {len(listed.channels)}"
            f" ({', '.join(listed.channels)[:100]}). Correct one of them."
        )
    for fault in faults:
        report(fault)
    return None if faults or label is None else _facts(case, found, label, counts)


def _tried(faults: list[str], action: Callable[..., T], *arguments: Any) -> T | None:
    try:
        return action(*arguments)
    except ValueError as error:
        faults.append(str(error))
        return None


def _label_values(label: MetaTensor, path: Path, listed: CaseList, faults: list[str]) -> dict[int, int]:
    """Count the voxels of each value of a label map."""
    if len(label) > 1:
        faults.append(f"{path} has {len(label)} channels. Give one label map with a value for each class.")
    values, counts = np.unique(label.as_tensor().numpy(), return_counts=True)
    whole = np.isfinite(values) & (np.abs(values - np.round(values)) < 1e-3) & (values > -1e-3)
    if len(values) > VALUES or not whole.all():
        odd = values[~whole][0] if not whole.all() else values[-1]
        faults.append(
            f"{path} has {len(values)} different values, such as {odd:g}, and a label map a whole number from 0 for"
            " each class. Is it an image, or was it resampled?"
        )
        return {}
    found = {round(float(value)): int(count) for value, count in zip(values, counts, strict=True)}
    if unknown := sorted(found.keys() - {0, *listed.labels.values()}) if listed.labels else []:
        faults.append(
            f"{path} has the label values {', '.join(map(str, unknown[:5]))}, and {listed.source} declares"
            f" {sorted(listed.labels.values())[:20]}. Declare them under `labels` or correct the label map."
        )
    return {value: count for value, count in found.items() if value}


def _facts(case: Case, images: Sequence[MetaTensor], label: MetaTensor, counts: dict[int, int]) -> CaseFacts:
    affine = torch.as_tensor(images[0].affine, dtype=torch.float64).numpy()
    axes = nib.orientations.io_orientation(affine)[:, 0]
    order = [int(np.flatnonzero(axes == k)[0]) for k in range(3)]
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    array = torch.cat([image.as_tensor() for image in images]).numpy()
    mask = label.as_tensor()[0].numpy() > 0.5
    chosen = np.flatnonzero(mask)
    chosen = np.random.default_rng(0).permutation(chosen)[:SAMPLED]
    others = [tuple(other for other in range(3) if other != axis) for axis in order]
    return CaseFacts(
        case=case,
        shape=tuple(mask.shape[axis] for axis in order),
        spacing=tuple(float(sizes[axis]) for axis in order),
        foreground=array.reshape(len(array), -1)[:, chosen],
        voxels=counts,
        annotated=tuple(float(mask.any(axis=pair).mean()) for pair in others),
        zeros=float((array == 0).all(0).mean()),
        outlying=max(_outlying(channel) for channel in array),
        lowest=float(array.min()),
    )


def _outlying(channel: NDArray[np.float32]) -> float:
    middle, high = np.percentile(channel, [50, 99.5])
    return float((channel.max() - middle) / (high - middle)) if high > middle else 1.0
