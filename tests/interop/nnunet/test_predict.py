"""Label maps are those of nnUNetv2_predict, voxel for voxel."""

import nibabel as nib
import numpy as np
import pytest

from lit_continual.cli import main
from tests.interop.nnunet.conftest import nnunet_predicts, write_images


def we_predict(folder, images, output, *options):
    main(["predict", str(folder), str(images), f"--output={output}", "--accelerator=cpu", *options])
    return {path.name[:-7]: np.asarray(nib.load(path).dataobj) for path in sorted(output.glob("*.nii.gz"))}


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, {}),
        ({"dims": 2, "spacing": (9.0, 1.0, 1.7)}, {}),
        ({"transpose": (1, 0, 2), "spacing": (2.0, 2.0, 2.0), "normalisation": "CTNormalization"}, {}),
        ({"old": True, "spacing": (1.3, 1.3, 3.0), "reader": "NibabelIO"}, {}),  # no resampling, old plans
        ({"reader": "NibabelIOWithReorient", "channels": 2}, {"channels": 2}),
        ({"mirror": True}, {}),
        (  # as TotalSegmentator's models are
            {"old": True, "trainer": "nnUNetTrainerNoMirroring", "mirror_axes": None, "mirror": True},
            {},
        ),
    ],
    ids=["3d", "2d", "transposed_ct", "old_nibabel", "reoriented", "mirrored", "total_segmentator"],
)
def test_label_maps_are_equal_voxel_for_voxel(toy, tmp_path, options, more):
    options = dict(options)
    mirror = options.pop("mirror", False)
    folder, images = toy(**options), write_images(tmp_path / "images", **more)
    theirs = nnunet_predicts(folder, images, tmp_path / "theirs", mirror)
    ours = we_predict(folder, images, tmp_path / "ours", *(["--mirror=true"] if mirror else []))
    assert ours.keys() == theirs.keys() == {"case_0", "case_1"}
    for name, found in theirs.items():
        np.testing.assert_array_equal(ours[name], found)
        assert set(np.unique(found)) == {0, 1, 2}
