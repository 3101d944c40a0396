import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import ConvertToMultiChannelBasedOnBratsClasses
from torch.testing import assert_close

from lit_continual.modules import RegionSegmenter
from lit_continual.tools.predict import predict

NETWORK = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}
NAMES = ("necrosis", "oedema", "enhancing")


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return RegionSegmenter(NETWORK, features=4)


def batch(size=2, classes=NAMES):
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (size, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return {"image": torch.rand(size, 1, 8, 8, generator=generator), "label": label, "classes": [classes] * size}


def test_regions_are_those_of_brats(segmenter):
    given = batch()
    label = given["label"][0, 0]
    core, whole, enhancing = ConvertToMultiChannelBasedOnBratsClasses()(torch.where(label == 3, 4, label))
    truths = segmenter.truths(given)
    assert list(truths) == ["whole_tumour", "tumour_core", "enhancing_tumour"]
    for name, expected in zip(truths, (whole, core, enhancing), strict=True):
        assert torch.equal(truths[name][0], expected)


def test_values_follow_the_order_in_which_the_data_reveal_the_classes(segmenter):
    given = batch(classes=("enhancing", "necrosis", "oedema"))
    assert torch.equal(segmenter.truths(given)["enhancing_tumour"], given["label"][:, 0] == 1)


def test_the_loss_is_the_sum_over_binary_heads(segmenter):
    given = batch()
    logits, label = segmenter(given["image"]), given["label"]
    masks = (label > 0, (label == 1) | (label == 3), label == 3)
    expected = sum(segmenter.loss(logits[:, 2 * i : 2 * i + 2], mask.long()) for i, mask in enumerate(masks))
    assert_close(segmenter.batch_loss(logits, given), expected)


def test_a_sample_trains_the_regions_that_it_reveals(segmenter):
    given = batch(3)
    given["classes"] = [NAMES, ("enhancing",), ()]
    label = given["label"].clone()
    logits = segmenter(given["image"])
    parts = [segmenter.loss(logits[:1, :2], (label[:1] > 0).long()) / 3]
    parts += [segmenter.loss(logits[:1, 2:4], ((label[:1] == 1) | (label[:1] == 3)).long()) / 3]
    enhancing = torch.stack([label[0] == 3, label[1] == 1]).long()
    parts += [segmenter.loss(logits[:2, 4:], enhancing) * 2 / 3]
    assert_close(segmenter.batch_loss(logits, given), sum(parts))


def test_refuses_data_and_regions_that_do_not_meet(segmenter):
    with pytest.raises(ValueError, match=r"The data reveal liver, of which no region of .* is made"):
        segmenter.grow(["liver"])
    with pytest.raises(ValueError, match="and nothing has none"):
        RegionSegmenter(NETWORK, features=4, regions={"nothing": []})


def test_a_checkpoint_predicts_regions_like_any_segmenter(tmp_path):
    """Each region is where the image is above a threshold of its own, so that regions are nested."""
    module, at = RegionSegmenter({"_target_": "torch.nn.Identity"}, features=1, roi_size=[8, 8]), (0.2, 0.5, 0.8)
    with torch.no_grad():
        for layer, threshold in zip(module.heads.layers, at, strict=True):
            layer.weight.copy_(torch.tensor([0.0, 10.0])[:, None, None, None])
            layer.bias.copy_(torch.tensor([0.0, -10 * threshold]))
    content = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}
    plain = {"preprocessing": {"orientation": None, "normalise": []}}
    torch.save({**content, "datamodule_hyper_parameters": plain}, tmp_path / "model.ckpt")
    (tmp_path / "images").mkdir()
    image = np.random.default_rng(0).uniform(0, 1, (12, 8, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "images/case.nii.gz")

    folder = predict(str(tmp_path / "model.ckpt"), str(tmp_path / "images"), str(tmp_path / "out"), probabilities=True)
    found = nib.load(folder / "case_probabilities.nii.gz").get_fdata() > 0.5
    assert np.array_equal(found, image[..., None] > np.array(at))
    assert np.array_equal(np.asarray(nib.load(folder / "case.nii.gz").dataobj) > 0, image > 0.2)
    values = json.loads((folder / "labels.json").read_text())
    assert values == {"background": 0, "whole_tumour": 1, "tumour_core": 2, "enhancing_tumour": 3}
