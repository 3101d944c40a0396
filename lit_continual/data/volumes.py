"""From cases to volumes: loading, checking, and bringing them to one grid and intensity scale."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Spacing, SpatialPad
from monai.utils import convert_to_tensor
from torch import Tensor

from lit_continual.data.batch import Matrix, Sample
from lit_continual.data.case_lists.cases import Case, CaseList
from lit_continual.data.label_values import label_of, read_label, require_declared, values_in
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.files.printing import printable_errors
from lit_continual.files.whole_files import in_one_line
from lit_continual.images.reading import LARGEST, label_values, read_volume, require_one_grid
from lit_continual.windows.sizes import require_near_size


@printable_errors()
def load_case(case: Case, preprocessing: Preprocessing) -> Sample:
    """Load the image of a case and bring it to the grid and scale of ``preprocessing``.

    Returns:
        ``image`` ``(C, H, W, D)``, ``patient``, ``path``, and where it lies.

    Raises:
        ValueError: If a file cannot be read, has voxels that are not finite, or channels of different grids.
    """
    image, wrong = _channels(case)
    source, shape = image.affine, tuple(image.shape[1:])
    grid, normalise = preprocessing.transforms()
    for transform in grid:
        if isinstance(transform, Spacing):
            sizes = torch.as_tensor(image.affine, dtype=torch.float64)[:3, :3].norm(dim=0).tolist()
            require_mm(case.images[0], image.shape[1:], sizes, transform.pixdim)
        image = transform(image)
    spacing = torch.as_tensor(source, dtype=torch.float64)[:3, :3].norm(dim=0)
    return {
        "image": _normalised(normalise, image.as_tensor(), case, wrong),
        "affine": _numbers(image.affine),
        "source_affine": _numbers(source),
        "source_shape": shape,
        "spacing": tuple(spacing.tolist()),
        "patient": case.patient,
        "path": str(case.images[0]),
    }


def _channels(case: Case) -> tuple[MetaTensor, dict[Path, int]]:
    """Read the files of a case as one image, and count the voxels of each that are not finite."""
    channels = [read_volume(path) for path in case.images]
    source = channels[0]
    for path, channel in zip(case.images[1:], channels[1:], strict=True):
        require_one_grid(case.images[0], source.shape[1:], source.affine, path, channel.shape[1:], channel.affine)
    wrong = {path: _not_finite(c.as_tensor()) for path, c in zip(case.images, channels, strict=True)}
    single = source.as_tensor() if len(channels) == 1 else torch.cat([c.as_tensor() for c in channels])
    return MetaTensor(single.contiguous(), affine=source.affine), wrong


def _not_finite(volume: Tensor) -> int:
    """Count plane by plane: ``isfinite`` takes more memory than a volume."""
    return sum(int((~plane.isfinite()).sum()) for channel in volume for plane in channel)


def _normalised(normalise: Any, image: Tensor, case: Case, wrong: Mapping[Path, int]) -> Tensor:
    """Bring an image to its intensity scale, by which voxels that are not finite may be mended."""
    path = next((path for path, count in wrong.items() if count), None)
    try:
        found: Tensor = convert_to_tensor(normalise(image), track_meta=False).float()
        bad = _not_finite(found)
    except Exception as error:
        if path is None:
            raise ValueError(
                f"`normalise` fails on {case.images[0]} ({in_one_line(error.__cause__ or error)}). Correct it."
            ) from error
        bad = wrong[path]
    if found.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"`normalise` makes {tuple(found.shape[1:])} of the {tuple(image.shape[1:])} voxels of {case.images[0]},"
            " and its label stays as it was. Use transforms of intensities; `orientation` and `spacing` are the grid."
        )
    if bad and path is not None:
        raise ValueError(
            f"{path} has {wrong[path]} voxels that are nan or infinite. Repair or remove the image, or mend them in"
            " `normalise`."
        )
    if bad:
        raise ValueError(f"`normalise` makes {bad} voxels of {case.images[0]} nan or infinite. Correct its transforms.")
    return found


def require_mm(path: Path, shape: Sequence[int], sizes: Sequence[float], wanted: Sequence[float]) -> None:
    """Refuse voxel sizes that are not in mm: resampling would take hours, or all memory, or leave a voxel.

    Args:
        path: The image.
        shape: Its voxels along each axis.
        sizes: Their sizes.
        wanted: Those to resample to; the last holds for the axes behind it, and one of 0 or less leaves its axis.

    Raises:
        ValueError: If they cannot both be in mm.
    """
    target = [float(size) for size in wanted] + [float(wanted[-1])] * (3 - len(wanted))
    ratios = [have / want for have, want in zip(sizes, target, strict=True) if want > 0]
    grown = prod(shape) * prod(max(1, ratio) for ratio in ratios)
    if ratios and not (1e-4 < prod(ratios) < 1e4 and grown < LARGEST):
        raise ValueError(
            f"{path} has voxels of {' x '.join(f'{s:.3g}' for s in sizes)} mm, and `spacing` asks for"
            f" {' x '.join(f'{t:.3g}' for t in target)} mm. Give both in mm."
        )


def _numbers(affine: Any) -> Matrix:
    return tuple(tuple(row) for row in torch.as_tensor(affine, dtype=torch.float64).tolist())


@printable_errors()
def load_label(case: Case, classes: Mapping[str, int], listed: CaseList, image: Sample) -> MetaTensor:
    """Load the label map of a case in its own grid, with 1, 2, … for the revealed classes in order and 0 elsewhere.

    Args:
        case: Whose label map.
        classes: Label value of each revealed class.
        listed: Where the case stands; declares the label values.
        image: The image of the case as ``load_case`` returns it, on whose ``source_affine`` the label map must lie.

    Returns:
        ``(1, H, W, D)`` uint8.

    Raises:
        ValueError: If there is no label, it has another shape or affine than the image, or values nobody declared.
    """
    path = label_of(case, listed)
    label = read_label(path)
    affine = torch.tensor(image["source_affine"], dtype=torch.float64)
    require_one_grid(case.images[0], image["source_shape"], affine, path, label.shape[1:], label.affine)
    values = label_values(label)
    require_declared(path, values_in(values), classes, listed)
    revealed = torch.zeros(values.shape, dtype=torch.uint8)
    for k, value in enumerate(classes.values(), start=1):
        revealed[values == value] = k
    return MetaTensor(revealed, affine=affine)


def load_training_volume(
    case: Case, classes: Mapping[str, int], listed: CaseList, preprocessing: Preprocessing, patch_size: tuple[int, ...]
) -> Sample:
    """Load image and label on the preprocessed grid, padded to at least ``patch_size``."""
    volume = load_case(case, preprocessing)
    label = load_label(case, classes, listed, volume)
    for transform in preprocessing.transforms()[0]:
        label = transform(label, mode="nearest") if isinstance(transform, Spacing) else transform(label)
    require_near_size(patch_size, volume["image"].shape[1:], case.images[0])
    pad = SpatialPad((*patch_size, *[1] * (3 - len(patch_size))))
    return {
        "image": pad(volume["image"]).as_tensor(),
        "label": pad(label.as_tensor()).as_tensor().to(torch.uint8),
        "patient": volume["patient"],
        "classes": tuple(classes),
    }


def load_evaluation_volume(
    case: Case, classes: Mapping[str, int], listed: CaseList, preprocessing: Preprocessing
) -> Sample:
    """Load the image on the preprocessed grid and the label in the grid of its file."""
    volume = load_case(case, preprocessing)
    return {**volume, "label": load_label(case, classes, listed, volume).as_tensor(), "classes": tuple(classes)}
