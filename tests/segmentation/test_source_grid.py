from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lit_continual.data import Case, CaseList, Preprocessing, collate
from lit_continual.data.volumes import load_case, load_label, load_training_volume
from lit_continual.segmentation.source_grid import from_source_grid

OBLIQUE = np.array([[0.0, 0.4, -1.2, 5.0], [0.0, 1.0, 0.5, -3.0], [3.0, 0.0, 0.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.mark.parametrize("orientation", [None, "RAS", "LPI"])
@pytest.mark.parametrize("spacing", [None, (0.7, 1.3, 2.0)])
def test_a_label_map_goes_to_the_grid_that_training_brings_it_to(tmp_path, orientation, spacing):
    rng = np.random.default_rng(0)
    for name in ("image", "label"):
        coarse = rng.integers(0, 3, (3, 4, 5)).repeat(3, 0).repeat(2, 1).repeat(4, 2)
        nib.save(nib.Nifti1Image(coarse.astype(np.int16), OBLIQUE), tmp_path / f"{name}.nii.gz")
    case = Case((tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz", "p")
    listed, classes = CaseList(Path("list"), (case,), {}), {"a": 1, "b": 2}
    how = Preprocessing(orientation=orientation, spacing=spacing, normalise=())
    wanted = load_training_volume(case, classes, listed, how, (1, 1, 1))["label"]
    sample = load_case(case, how)
    label = load_label(case, classes, listed, sample).as_tensor()
    found = from_source_grid(label[None], collate([sample]))[0]
    assert found.shape == wanted.shape
    assert (found == wanted).float().mean() > 0.999  # a voxel between two may go either way
