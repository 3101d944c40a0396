"""Label maps are those of nnUNetv2_predict, voxel for voxel."""

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.cli import main
from lit_continual.modules import NNUNetSegmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.inference import Inference
from tests.interop.nnunet.conftest import nnunet_predicts, write_images
from tests.marks import slow_but


def we_predict(folder, images, output, *options):
    main(["predict", str(folder), str(images), f"--output={output}", "--accelerator=cpu", *options])
    return {path.name[:-7]: np.asarray(nib.load(path).dataobj) for path in sorted(output.glob("*.nii.gz"))}


KINDS = {
    "3d": {},
    "2d": {"dims": 2, "spacing": (9.0, 1.0, 1.7)},
    "transposed_ct": {"transpose": (1, 0, 2), "spacing": (2.0, 2.0, 2.0), "normalisation": "CTNormalization"},
    "old_nibabel": {"old": True, "spacing": (1.3, 1.3, 3.0), "reader": "NibabelIO"},  # no resampling, old plans
    "reoriented": {"reader": "NibabelIOWithReorient", "channels": 2},
    "mirrored": {"mirror": True},
    "total_segmentator": {  # as its models are
        "old": True, "trainer": "nnUNetTrainerNoMirroring", "mirror_axes": None, "mirror": True,
    },
    "other_steps": {"step": 0.75},
}  # fmt: skip


@pytest.mark.parametrize("kind", slow_but(KINDS, "transposed_ct", "total_segmentator"))
def test_label_maps_are_equal_voxel_for_voxel(toy, tmp_path, kind):
    options = dict(KINDS[kind])
    mirror, step = options.pop("mirror", False), options.pop("step", 0.5)
    folder, images = toy(**options), write_images(tmp_path / "images", channels=options.get("channels", 1))
    theirs = nnunet_predicts(folder, images, tmp_path / "theirs", mirror, tile_step_size=step)
    asked = ["--mirror=true"] if mirror else []
    asked += [f"--overlap={1 - step}", "--stitch_device=cpu"] if step != 0.5 else []
    ours = we_predict(folder, images, tmp_path / "ours", *asked)
    assert ours.keys() == theirs.keys() == {"case_0", "case_1"}
    for name, found in theirs.items():
        np.testing.assert_array_equal(ours[name], found)
        assert set(np.unique(found)) == {0, 1, 2}


@pytest.mark.parametrize("stitch_device", slow_but(["same", "cpu"], "cpu"))
def test_overlap_and_weights_of_windows_are_options(toy, tmp_path, stitch_device):
    folder, images = toy(), write_images(tmp_path / "images", shape=(40, 36, 9), count=1)
    module = NNUNetSegmenter(inference=Inference(overlap=0.25, mode="constant", stitch_device=stitch_device))
    Checkpoint(folder).restore(module)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    options = {"tile_step_size": 0.75, "use_gaussian": False}
    (theirs,) = nnunet_predicts(folder, images, tmp_path / "theirs", **options).values()
    (plain,) = nnunet_predicts(folder, images, tmp_path / "plain").values()
    (ours,) = we_predict(tmp_path / "model.ckpt", images, tmp_path / "ours").values()
    np.testing.assert_array_equal(ours, theirs)
    assert (ours != plain).any()


def test_an_image_of_other_channels_is_refused(toy, tmp_path):
    folder, images = toy(), write_images(tmp_path / "images", channels=2, count=1)
    with pytest.raises(ValueError, match=r"case_0_0000.nii.gz has 2 channels, and the model takes 1. Give files NAME"):
        main(["predict", str(folder), str(images), f"--output={tmp_path / 'out'}", "--accelerator=cpu"])
    assert not list(tmp_path.rglob("out/*.nii.gz"))


def test_what_nnunet_does_not_do_is_refused():
    with pytest.raises(ValueError, match=r"nnU-Net pads with zeros and resamples logits, .* Leave out its"):
        NNUNetSegmenter(inference=Inference(padding_mode="reflect"))


def test_what_nnunet_does_not_know_is_refused(toy, tmp_path):
    folder, images = toy(), write_images(tmp_path / "images")
    for option in ("--sw_batch_size=4", "--precision=bf16-mixed"):
        said = rf"{option.partition('=')[0]} is not for models of nnU-Net, .* knows --overlap and --st"
        with pytest.raises(ValueError, match=said):
            we_predict(folder, images, tmp_path / "ours", option)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": [7, 13, 3]}, r"The network fails on .*case_0_0000.nii.gz of .* voxels \(Sizes of tensors"),
        ({"resampling_fn_probabilities_kwargs": {"order": 99}}, r"cannot resample its answer for .*case_0_0000.nii.gz"),
        ({"resampling_fn_data_kwargs": {"order": 99}}, r"cannot prepare .*case_0_0000.nii.gz .* or take another model"),
    ],
    ids=["window", "resampling", "preparation"],
)
def test_plans_that_fail_on_an_image_are_named_with_it(toy, images, tmp_path, change, message):
    folder = toy(change=lambda plans, dataset: plans["configurations"]["3d_fullres"].update(change))
    with pytest.raises(ValueError, match=message) as caught:
        we_predict(folder, images, tmp_path / "out")
    assert str(caught.value).isprintable()
