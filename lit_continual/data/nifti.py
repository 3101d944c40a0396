"""Volumes as NIfTI files."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lit_continual.runs.files import replaced


def write_nifti(path: Path, array: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], source: Path) -> None:
    """Write a volume as ``.nii.gz``, with the header of the file that it comes from where that is NIfTI too."""
    header = None
    if source.name.endswith((".nii", ".nii.gz")):
        header = nib.load(source).header.copy()
        header.set_slope_inter(1, 0)
        header.set_data_dtype(array.dtype)
    with replaced(path) as temporary:
        image = nib.Nifti1Image(array, affine, header)
        temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
