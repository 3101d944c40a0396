"""A phantom on disk: a Decathlon data set that appears whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from lit_continual.phantoms.voxels import Spacing

SUBJECTS_PER_SEED = 10_000
Scan = Callable[[], tuple[NDArray[Any], NDArray[Any]]]


def write_phantom(folder: Path | str, description: dict[str, Any], scans: Mapping[str, Scan], spacing: Spacing) -> Path:
    """Write phantoms as a Decathlon data set, or reuse the one that is there.

    The folder appears whole or not at all. A folder that lost files is completed; one that holds something else is
    left alone.

    Args:
        folder: of the data set; its parents are made.
        description: of the data set: its name, modality, labels, and the recipe that distinguishes it from others.
        scans: what makes image ``(X, Y, Z[, C])`` and labels ``(X, Y, Z)``, by patient.
        spacing: mm to the right, front and top.

    Returns:
        Path of ``dataset.json``, whose ``training`` lists image, label and patient.

    Raises:
        ValueError: if the folder holds another data set.
    """
    folder = Path(folder)
    description = _list_files(description, list(scans))
    if _is_complete(folder, description):
        return folder / "dataset.json"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        for item in description["training"]:
            image, label = scans[item["patient"]]()
            _save(image, spacing, draft / item["image"])
            _save(label, spacing, draft / item["label"])
        (draft / "dataset.json").write_text(json.dumps(description, indent=2))
        _move(draft, folder, description)
    return folder / "dataset.json"


def patients_of(seed: int, subjects: int) -> list[int]:
    """Seeds of the patients of a data set; those of different data sets differ.

    Raises:
        ValueError: if there are fewer than one, or more than 10 000.
    """
    if not 1 <= subjects <= SUBJECTS_PER_SEED:
        raise ValueError(f"`subjects` must lie in 1..{SUBJECTS_PER_SEED}, got {subjects}.")
    return [seed * SUBJECTS_PER_SEED + i for i in range(subjects)]


def _list_files(description: dict[str, Any], patients: list[str]) -> dict[str, Any]:
    files = [(f"./imagesTr/{patient}.nii.gz", f"./labelsTr/{patient}.nii.gz", patient) for patient in patients]
    training = [{"image": image, "label": label, "patient": patient} for image, label, patient in files]
    return {**description, "numTraining": len(files), "numTest": 0, "training": training, "test": []}


def _is_complete(folder: Path, description: dict[str, Any]) -> bool:
    listing = folder / "dataset.json"
    if not listing.exists():
        return False
    try:
        found = json.loads(listing.read_text())
    except ValueError:
        found = None
    if found != description:
        raise ValueError(f"{listing} describes another data set than the phantom asked for; choose another folder.")
    return all((folder / item[key]).exists() for item in found["training"] for key in ("image", "label"))


def _save(volume: NDArray[Any], spacing: Spacing, path: Path) -> None:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(volume.shape[:3], spacing, strict=True)]
    nifti = nib.Nifti1Image(volume, affine)
    nifti.set_sform(affine, code="scanner")
    nifti.set_qform(affine, code="scanner")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nifti, path)


def _move(draft: Path, folder: Path, description: dict[str, Any]) -> None:
    try:
        os.replace(draft, folder)
    except OSError:  # the folder is there: another process was faster, or files were lost
        if _is_complete(folder, description):
            return
        shutil.copytree(draft, folder, copy_function=os.replace, dirs_exist_ok=True)
