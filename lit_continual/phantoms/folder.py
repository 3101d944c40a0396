"""A phantom on disk: a Decathlon data set that appears whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from lit_continual.files.folder_aside import made_folder

SUBJECTS_PER_SEED = 10_000
Scan = Callable[[int], tuple[NDArray[Any], NDArray[Any]]]


def write_phantom(
    folder: Path | str, description: dict[str, Any], recipe: dict[str, Any], prefix: str, scan: Scan
) -> Path:
    """Write phantoms as a Decathlon data set, or reuse the one that is there.

    The folder appears whole or not at all. A folder that lost files is completed; one that holds something else is
    left alone. Patients of different seeds differ.

    Args:
        folder: Of the data set; its parents are made.
        description: Of the data set: its name, modality and labels.
        recipe: What distinguishes it from others, among it ``seed``, ``subjects`` and ``spacing``.
        prefix: What names of patients begin with.
        scan: Makes image ``(X, Y, Z[, C])`` and labels ``(X, Y, Z)`` from a patient's seed.

    Returns:
        Path of ``dataset.json``, whose ``training`` lists image, label and patient.

    Raises:
        ValueError: If ``subjects`` is below 1 or above 10 000, or the folder holds another data set.
    """
    if not 1 <= recipe["subjects"] <= SUBJECTS_PER_SEED:
        raise ValueError(f"`subjects` must lie in 1..{SUBJECTS_PER_SEED}, got {recipe['subjects']}.")
    folder, first = Path(folder), recipe["seed"] * SUBJECTS_PER_SEED
    seeds = {f"{prefix}-{seed:08d}": seed for seed in range(first, first + recipe["subjects"])}
    training = [{"image": f"./imagesTr/{p}.nii.gz", "label": f"./labelsTr/{p}.nii.gz", "patient": p} for p in seeds]
    description = {**description, "phantom": recipe, "numTraining": len(seeds), "numTest": 0}
    description |= {"training": training, "test": []}
    if _is_complete(folder, description):
        return folder / "dataset.json"
    made_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        for item in training:
            for key, volume in zip(("image", "label"), scan(seeds[item["patient"]]), strict=True):
                _save(volume, recipe["spacing"], draft / item[key])
        (draft / "dataset.json").write_text(json.dumps(description, indent=2))
        _move(draft, folder, description)
    return folder / "dataset.json"


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


def _save(volume: NDArray[Any], spacing: Sequence[float], path: Path) -> None:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(volume.shape[:3], spacing, strict=True)]
    nifti = nib.Nifti1Image(volume, affine)
    nifti.set_sform(affine, code="scanner")
    nifti.set_qform(affine, code="scanner")
    made_folder(path.parent)
    nib.save(nifti, path)


def _move(draft: Path, folder: Path, description: dict[str, Any]) -> None:
    try:
        os.replace(draft, folder)
    except OSError:  # the folder is there: another process was faster, or files were lost
        if _is_complete(folder, description):
            return
        shutil.copytree(draft, folder, copy_function=os.replace, dirs_exist_ok=True)
