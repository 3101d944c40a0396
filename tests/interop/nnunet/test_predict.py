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
        ({"step": 0.75}, {}),
    ],
    ids=["3d", "2d", "transposed_ct", "old_nibabel", "reoriented", "mirrored", "other_steps"],
)
def test_label_maps_are_equal_voxel_for_voxel(toy, tmp_path, options, more):
    options = dict(options)
    mirror, step = options.pop("mirror", False), options.pop("step", 0.5)
    folder, images = toy(**options), write_images(tmp_path / "images", **more)
    theirs = nnunet_predicts(folder, images, tmp_path / "theirs", mirror, step)
    asked = ["--mirror=true"] if mirror else []
    asked += [f"--overlap={1 - step}", "--stitch_device=cpu"] if step != 0.5 else []
    ours = we_predict(folder, images, tmp_path / "ours", *asked)
    assert ours.keys() == theirs.keys() == {"case_0", "case_1"}
    for name, found in theirs.items():
        np.testing.assert_array_equal(ours[name], found)
        assert set(np.unique(found)) == {0, 1, 2}


def test_what_nnunet_does_not_know_is_refused(toy, tmp_path):
    folder, images = toy(), write_images(tmp_path / "images")
    with pytest.raises(ValueError, match=r"--sw_batch_size is not for models of nnU-Net, .* knows --overlap and --st"):
        we_predict(folder, images, tmp_path / "ours", "--sw_batch_size=4")
