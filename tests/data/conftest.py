"""Tiny NIfTI data sets of every kind, and the real ones where they are."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHAPE = (14, 12, 8)
OBLIQUE = np.array([[0.94, -0.3, 0.1, -20], [0.32, 1.8, -0.4, 15], [-0.02, 0.5, 2.9, 40], [0, 0, 0, 1.0]])


def write(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def scan(seed, shape=SHAPE, dtype="float32", channels=None, values=(1, 2)):
    """Noise, brighter in two boxes that the label names; of whole numbers, so that any type holds it."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for value, corner in zip(values, (2, 6), strict=False):
        label[corner : corner + 3, 3:8, : max(1, shape[2] // 2)] = value
    image = rng.integers(0, 60, (*shape, *([channels] if channels else []))) + 60 * (
        label[..., None] if channels else label
    )
    return image.astype(dtype), label


@pytest.fixture
def decathlon(tmp_path):
    """Make a Decathlon data set; ``entries`` gives further keys of each case, and keyword arguments go to ``scan``."""

    def make(count=6, name="set", affine=None, suffix=".nii.gz", labels=None, entries=(), **kwargs):
        folder, listed = tmp_path / name, []
        for i in range(count):
            image, label = scan(i, **kwargs)
            write(folder / f"imagesTr/case_{i}{suffix}", image, affine)
            write(folder / f"labelsTr/case_{i}{suffix}", label, affine)
            more = entries[i] if i < len(entries) else {}
            listed.append({"image": f"imagesTr/case_{i}{suffix}", "label": f"labelsTr/case_{i}{suffix}", **more})
        labels = {"0": "background", "1": "first", "2": "second"} if labels is None else labels
        (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": listed}))
        return folder

    return make


@pytest.fixture
def real_data():
    if not os.environ.get("LIT_CONTINUAL_DATA"):
        pytest.skip("needs LIT_CONTINUAL_DATA")
    return Path(os.environ["LIT_CONTINUAL_DATA"])
