"""Names of the files of images."""

import os
import unicodedata
from pathlib import Path

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".seg.nrrd", ".nrrd", ".mha", ".mhd")


def stem(path: str | os.PathLike[str]) -> str:
    """Name of an image file without its suffix, ``.nii.gz`` included, its accents as one character each."""
    name = unicodedata.normalize("NFC", Path(path).name)
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), Path(name).stem)


def is_image(path: Path) -> bool:
    """Whether a name is that of an image, in capitals too; ``._NAME`` is what macOS keeps beside it."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def is_nifti(path: Path) -> bool:
    """Whether a name is that of a NIfTI file."""
    return path.name.lower().endswith(NIFTI)
