"""From a file to an array: reading and checking one volume."""

import importlib.util
import os
from collections.abc import Sequence
from gzip import BadGzipFile
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import ITKReader, MetaTensor
from monai.transforms import EnsureChannelFirst
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from torch import Tensor

from lit_continual.files.whole_files import explaining
from lit_continual.images.file_names import is_nifti
from lit_continual.images.nifti import nifti_affine

LARGEST = 2**31  # voxels of an image
AT_ONCE = 2**23  # voxels of a slab
BEHIND = 16  # MB that are read behind the voxels
HAS_ITK = importlib.util.find_spec("itk") is not None


def read_volume(path: Path) -> MetaTensor:
    """Read ``(C, H, W, D)`` float32; a plane has a depth of one.

    Raises:
        ValueError: If the file cannot be read, or is no image of numbers that have a place.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give one file of it.")
    if not os.path.lexists(path):
        raise ValueError(f"There is no image at {path}. Check the path, or take it off the list.")
    if not is_nifti(path) and not HAS_ITK:
        raise ValueError(f"{path} cannot be read without ITK. Run `pip install itk`, or convert it to NIfTI.")
    require_numbers(path)
    with explaining(f"{path} cannot be read as an image", "Replace it or take it off the list.", Exception):
        image = _loaded(path)
    require_place(path, torch.as_tensor(image.affine, dtype=torch.float64))
    array = image.as_tensor()
    if array.ndim > 4 and array.shape[4:].numel() == 1:  # a vector image: channels on the fifth axis, no time
        array = array.flatten(3)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.numel() == 0:
        raise ValueError(f"{path} has shape {tuple(array.shape[1:])}. Give an image of two or three dimensions.")
    affine = torch.from_numpy(nifti_affine(path)) if is_nifti(path) else image.affine
    return MetaTensor(array, affine=affine)


def _loaded(path: Path) -> MetaTensor:
    """Load by nibabel or by MONAI's reader of ITK; ``LoadImage`` tries out all readers that are installed."""
    if is_nifti(path):
        return _loaded_nifti(path)
    reader = ITKReader()
    array, facts = reader.get_data(reader.read(str(path)))
    found = MetaTensor.ensure_torch_and_prune_meta(array.astype(np.float32), facts)
    loaded: MetaTensor = EnsureChannelFirst()(found, meta_dict=facts)
    return loaded


def _loaded_nifti(path: Path) -> MetaTensor:
    """Load slab by slab: a header that scales makes float64, of which a volume takes more than of its float32."""
    image: Any = nib.load(path)
    stored, shape = image.dataobj, image.shape
    found = np.empty(shape, np.float32)
    count = max(1, AT_ONCE * shape[-1] // max(1, found.size)) if shape else 1
    with ImageOpener(path) as file:  # a compressed file is gone through once
        voxels: Any = ArrayProxy(file, (shape, stored.dtype, stored.offset, stored.slope, stored.inter))
        for begin in range(0, shape[-1], count):
            part = slice(begin, begin + count)
            with np.errstate(over="ignore", invalid="ignore"):  # what is infinite is refused with the name of the file
                found[..., part] = np.asanyarray(voxels[..., part]).astype(np.float32)
        _require_checksum(file)
    channels = torch.from_numpy(found if found.ndim > 3 else found[..., None]).movedim(-1, 0)
    return MetaTensor(channels, affine=torch.from_numpy(np.array(image.affine, np.float64)))


def _require_checksum(file: Any) -> None:
    """Read on to the end, where a compressed file has the checksum of what it holds; what follows it is nobody's."""
    try:
        for _ in range(BEHIND):
            if not file.read(2**20):
                return
    except BadGzipFile as error:
        if "CRC" in str(error) or "length" in str(error).lower():
            raise


def require_numbers(path: Path) -> None:
    """Refuse by its header what no memory holds, and what MONAI reads as something else.

    Those are complex voxels, read as their real part, and a bad affine, read as the identity.

    Raises:
        ValueError: If a file is such; of one that is none of NIfTI, whoever reads it says what is wrong.
    """
    if not is_nifti(path):
        return
    try:
        image: Any = nib.load(path)
        size, kind = prod(image.shape), image.get_data_dtype().kind
        affine = torch.from_numpy(image.affine.astype(np.float64))
    except Exception:
        return  # whoever reads it says what is wrong
    if size > LARGEST:
        raise ValueError(f"{path} has {size} voxels by its header, and an image at most {LARGEST}. Replace it.")
    if kind == "V":
        raise ValueError(f"{path} has voxels of several numbers, as of RGB. Convert it to one number a voxel.")
    if kind == "c":
        raise ValueError(
            f"{path} has complex voxels, of which the imaginary part would be lost. Convert it to magnitudes."
        )
    require_place(path, affine)


def require_place(path: Path, affine: Tensor) -> None:
    """Refuse an affine that gives voxels no place or no volume.

    Raises:
        ValueError: If this is one.
    """
    axes = affine[:3, :3] / affine[:3, :3].norm(dim=0)
    if not bool(affine.isfinite().all() and axes.isfinite().all()) or float(torch.linalg.det(axes).abs()) < 1e-6:
        raise ValueError(
            f"{path} has the affine {affine[:3].tolist()}, which is singular or not finite, so its voxels have no"
            " place. Correct its header."
        )


def label_values(volume: MetaTensor) -> Tensor:
    """Return the voxels of a label map, of which a scaled header may give 0.99999994 for 1.

    Example:
        >>> label_values(MetaTensor(torch.tensor([0.99999994, 2.5]))).tolist()
        [1.0, 2.5]
    """
    values = volume.as_tensor()
    rounded = values.round()
    return torch.where((values - rounded).abs() < 1e-3, rounded, values)


def require_one_grid(
    path: Path, shape: Sequence[int], affine: Tensor, other_path: Path, other_shape: Sequence[int], other: Tensor
) -> None:
    """Check that a volume lies on the grid of another one, but for a tenth of a voxel.

    Args:
        path: Of the one.
        shape: Its voxels along each axis.
        affine: Where they lie, ``(4, 4)``, in mm.
        other_path: Of the other.
        other_shape: Its voxels.
        other: Its affine.

    Raises:
        ValueError: If it does not.
    """
    if tuple(shape) != tuple(other_shape):
        raise ValueError(
            f"{other_path} has shape {tuple(other_shape)} and {path} {tuple(shape)}: they must be on one"
            " grid. Resample one onto the other."
        )
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1]) for n in shape)).double()
    homogeneous = torch.nn.functional.pad(corners, (0, 1), value=1.0)
    apart = (torch.as_tensor(other - affine, dtype=torch.float64) @ homogeneous.T)[:3].norm(dim=0).max()
    if not apart < 0.1 * torch.as_tensor(affine, dtype=torch.float64)[:3, :3].norm(dim=0).min():
        raise ValueError(
            f"{other_path} and {path} have different affines: they lie up to {apart:.3g} mm apart. Resample one onto"
            " the other, or correct the header."
        )
