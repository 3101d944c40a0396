"""Volumes as NIfTI files, and where the header of one says that it lies."""

import gzip
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from lit_continual.files.printing import printable
from lit_continual.files.whole_files import replaced

MM = {"meter": 1e3, "micron": 1e-3}  # in a unit of `xyzt_units`; in all others, as in none, it is mm
LARGEST = 1e3  # side of a voxel in mm, above which a header is wrong about its unit


def nifti_affine(path: Path) -> NDArray[np.float64]:
    """The affine of a NIfTI file as nibabel takes it, in mm; a warning says which, where there are two.

    Raises:
        ValueError: If the header gives voxels that are larger than a room.
    """
    image: Any = nib.load(path)
    unit = image.header.get("xyzt_units", 0)
    known = {1: "meter", 3: "micron"}.get(int(unit) % 8, "mm")
    sform, code = image.get_sform(coded=True)
    qform, other = image.get_qform(coded=True) if _has_qform(image) else (sform, 0)
    if code and other and not _agree(sform, qform, image.shape):
        sizes = (" x ".join(f"{mm:g}" for mm in np.linalg.norm(a[:3, :3], axis=0)) for a in (sform, qform))
        warnings.warn(
            printable(
                f"{path}: its sform (voxels of {next(sizes)}) and its qform ({next(sizes)}) disagree; the sform is"
                " taken. Correct the header if that is wrong."
            ),
            stacklevel=2,
        )
    affine: NDArray[np.float64] = np.array(image.affine, np.float64)
    affine[:3] *= MM.get(known, 1.0)
    if known == "meter" and np.linalg.norm(affine[:3, :3], axis=0).min() > LARGEST:
        raise ValueError(
            f"{path} has voxels of more than a metre by its header, whose `xyzt_units` are metres. Write millimetres"
            " there."
        )
    return affine


def _has_qform(image: Any) -> bool:
    try:
        image.get_qform()
    except (ValueError, HeaderDataError):  # a quaternion that is none
        return False
    return True


def _agree(sform: Any, qform: Any, shape: tuple[int, ...]) -> bool:
    """Whether a qform puts every voxel where a sform does, but for shears, which it cannot say, and a tenth of one."""
    header: Any = nib.Nifti1Header()
    header.set_qform(sform, code="scanner")
    corners = np.array(np.meshgrid(*([0, n - 1] for n in (*shape, 1, 1)[:3]))).reshape(3, -1)
    aparts = [form - qform for form in (sform, header.get_qform())]
    apart = min(np.linalg.norm(a[:3, :3] @ corners + a[:3, 3:], axis=0).max() for a in aparts)
    return bool(apart <= 0.1 * np.linalg.norm(sform[:3, :3], axis=0).min())


def write_nifti(path: Path, array: NDArray[Any], affine: NDArray[Any]) -> None:
    """Write a volume as ``.nii.gz`` under a header that says where it lies, in mm, and nothing of where it is from."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, "scanner")
    image.set_qform(affine, "scanner")  # which cannot say shears; whoever reads both takes the sform
    image.header.set_xyzt_units("mm")
    with (
        replaced(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream,
    ):
        image.to_stream(stream)  # slice by slice
