from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from monai.losses import DiceCELoss
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import affine_transform, binary_opening
from torch.utils.data import DataLoader, default_collate

from lit_continual.data import SegmentationDataModule
from lit_continual.data.case_lists.splits import Split
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.modules import Segmenter
from lit_continual.segmentation.volume_scores import VolumeScores
from lit_continual.stream.evaluation import CaseRecorder

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:You are trying to `self\.log"),  # steps called without a trainer
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges"),  # of MONAI's own call
]
UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}
HEADS = [["a"], ["b", "c"]]


def segmenter(heads=HEADS, **options):
    torch.manual_seed(0)
    return Segmenter({**UNET, "norm": "INSTANCE"}, features=4, heads=heads, **options)


def batch(classes, size=16):
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 3, (len(classes), 1, size, size), generator=generator)
    label = torch.minimum(label, torch.tensor([max(len(names), 1) for names in classes])[:, None, None, None])
    return {"image": torch.randn(len(classes), 1, size, size, generator=generator), "label": label, "classes": classes}


def test_names_may_hold_a_comma():
    module, given = segmenter(heads=[["lung, left"]]), batch([("lung, left",)])
    logits = module(given["image"])
    expected = DiceCELoss(softmax=True, to_onehot_y=True)(logits, given["label"])
    torch.testing.assert_close(module.training_step(given, 0)["loss"], expected)


def test_the_names_of_other_peoples_batches():
    """Joined by commas, as a list, left out, or mixed up by torch's own collating of tuples."""
    module, ours = segmenter(), batch([("b", "c"), ("b", "c"), ()])
    expected = module.training_step(ours, 0)["loss"]
    for theirs in (["b,c", "b,c", ""], [["b", "c"], ["b", "c"], []]):
        assert module.training_step({**ours, "classes": theirs}, 0)["loss"] == expected
    label = ours["label"]
    assert module.names({"label": label}) == [("a", "b", "c")] * 3
    module._of_data = ["b", "c"]
    assert module.names({"label": label}) == [("b", "c")] * 3
    for samples in ([("b", "c")] * 2, [("b", "c")] * 3, [("a",)] * 2):
        mixed = default_collate([{"label": label[0], "classes": names} for names in samples])
        with pytest.raises(ValueError, match=r"Give each sample its own names, as a DataLoader with `collate_fn="):
            module.names(mixed)


def test_the_mean_dice_is_over_the_classes_that_occur():
    module, logged = segmenter(), {}
    module.log_dict = lambda values, **options: logged.update(values)
    module.log = lambda name, value, **options: logged.update({name: value})
    mask = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    for found, expected in (([mask, mask[:, :1].repeat(1, 2, 1, 1)], 1.0), ([mask & False], float("nan"))):
        module.scores = VolumeScores(["a", "b"], ["dice"], "cpu")
        for prediction in found:
            module.scores.update("a", prediction, prediction, [(1.0, 1.0, 1.0)])
        module.scores.update("b", mask & False, mask & False, [(1.0, 1.0, 1.0)])
        module._log_scores("val")
        assert logged["val/dice"] == pytest.approx(expected, nan_ok=True)
        assert logged["val/dice/b"].isnan()


def test_growing_in_a_fit_leaves_the_old_outputs_bit_for_bit():
    module, image = segmenter().eval(), batch([("a",)])["image"]
    old = module(image)
    module.grow(["d", "a"])
    assert torch.equal(module(image)[:, :5], old)
    assert module.classes == ["a", "b", "c", "d"]
    assert module.hparams["heads"] == [["a"], ["b", "c"], ["d"]]


def test_data_that_reveal_a_part_of_a_head_are_refused():
    module = segmenter()
    with pytest.raises(ValueError, match="The head of b, c cannot be trained on data that reveal only b"):
        module.grow(["b"])
    assert module.classes == ["a", "b", "c"]


def test_the_loss_of_pure_batches_is_that_of_the_heads_they_reveal():
    module, loss = segmenter(), DiceCELoss(softmax=True, to_onehot_y=True)
    a, bc, c_first = batch([("a",)] * 3), batch([("b", "c")] * 2), batch([("c", "b")] * 2)
    outputs = module.training_step(a, 0)
    torch.testing.assert_close(outputs["loss"], loss(module(a["image"])[:, [0, 1]], a["label"]))
    assert torch.equal(outputs["logits"], module(a["image"]))
    logits = module(bc["image"])
    torch.testing.assert_close(module.training_step(bc, 0)["loss"], loss(logits[:, 2:], bc["label"]))
    swapped = torch.tensor([0, 2, 1])[c_first["label"]]  # value 1 stands for c, which is channel 2 of its head
    torch.testing.assert_close(module.training_step(c_first, 0)["loss"], loss(logits[:, 2:], swapped))
    every = batch([("a", "b", "c")])
    every["label"] = torch.randint(0, 4, (1, 1, 16, 16), generator=torch.Generator().manual_seed(2))
    logits, label = module(every["image"]), every["label"]
    by_hand = loss(logits[:, :2], (label == 1).long()) + loss(logits[:, 2:], (label - 1).clamp(min=0))
    torch.testing.assert_close(module.training_step(every, 0)["loss"], by_hand)


def test_the_loss_of_a_mixed_batch_is_the_mean_over_its_samples():
    module, mixed = segmenter(), batch([("a",), ("b", "c"), (), ("b", "c"), ("a",)])
    alone = [
        module.training_step({k: v[i : i + 1] for k, v in mixed.items()}, 0)["loss"] for i in range(len(mixed["label"]))
    ]
    torch.testing.assert_close(module.training_step(mixed, 0)["loss"], torch.stack(alone).mean())


def test_exemplars_give_no_loss_and_no_gradient_but_stay_in_the_graph():
    module, exemplars = segmenter(), batch([(), ()])
    loss = module.training_step(exemplars, 0)["loss"]
    assert loss == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_an_overflow_of_a_head_without_samples_does_not_reach_the_loss():
    module, a = segmenter(), batch([("a",)])
    with torch.no_grad():
        module.heads.layers[1].bias.fill_(float("inf"))
    loss = module.training_step(a, 0)["loss"]
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert not module.heads.layers[1].bias.grad.any()


def test_a_2d_network_goes_through_a_volume_slice_by_slice():
    module, volume = segmenter().eval(), torch.randn(1, 1, 16, 16, 5, generator=torch.Generator().manual_seed(0))
    slices = torch.stack([module(volume[..., z]) for z in range(5)], -1)
    torch.testing.assert_close(module.infer(volume), slices)


def test_a_volume_larger_than_the_window_is_covered_by_windows():
    module = segmenter(roi_size=[8, 8]).eval()
    volume = torch.randn(1, 1, 12, 8, 3, generator=torch.Generator().manual_seed(0))
    logits = module.infer(volume)
    assert logits.shape == (1, 5, 12, 8, 3)
    torch.testing.assert_close(logits[:, :, 0, :, 1], module(volume[:, :, :8, :, 1])[:, :, 0])  # one window reaches it
    torch.testing.assert_close(logits[:, :, 11, :, 1], module(volume[:, :, 4:, :, 1])[:, :, 7])


def test_a_volume_smaller_than_the_window_keeps_its_shape():
    module = segmenter(roi_size=[16, 16]).eval()
    assert module.infer(torch.zeros(1, 1, 7, 20, 2)).shape == (1, 5, 7, 20, 2)


def test_three_dimensions_go_through_patches():
    network = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 2, "channels": [4, 8], "strides": [2]}
    module = Segmenter({**network, "norm": "INSTANCE"}, features=3, heads=[["a"]], roi_size=[8, 8, 8]).eval()
    assert module.spatial_dims == 3
    assert module.infer(torch.zeros(1, 2, 10, 5, 8)).shape == (1, 2, 10, 5, 8)
    assert module.training_step({**batch3d(), "classes": [("a",)]}, 0)["loss"] > 0


def batch3d():
    return {"image": torch.randn(1, 2, 8, 8, 8), "label": torch.randint(0, 2, (1, 1, 8, 8, 8))}


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # nothing to validate on
def test_a_checkpoint_brings_its_heads_and_its_window(tmp_path, trainer):
    class Data(LightningDataModule):
        classes, patch_size = {"d": 1}, (16, 16)

        def train_dataloader(self):
            return DataLoader([{"image": torch.zeros(1, 16, 16), "label": torch.zeros(1, 16, 16), "classes": "d"}])

        def val_dataloader(self):
            return []

    fitted, module = trainer(max_epochs=1), segmenter()
    fitted.fit(module, datamodule=Data())
    fitted.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Segmenter.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).eval()
    assert loaded.head_channels == [[0, 1], [2, 3, 4], [5, 6]]
    assert loaded.hparams["roi_size"] == [16, 16]
    image = batch([("a",)])["image"]
    assert torch.equal(loaded(image), module.eval()(image))
    fresh, checkpoint = segmenter(heads=[]), torch.load(tmp_path / "model.ckpt", weights_only=True)
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(fresh.eval()(image), loaded(image))
    with pytest.raises(ValueError, match=r"The checkpoint has the heads .*, the model \[\['z'\]\]"):
        segmenter(heads=[["z"]]).on_load_checkpoint(checkpoint)


OBLIQUE = np.array([[1.2, -0.4, 0.0, 5.0], [0.5, 1.0, 0.0, -3.0], [0.0, 0.0, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def thresholding(classes, **options):
    module = Segmenter({"_target_": "torch.nn.Identity"}, features=1, heads=[[c] for c in classes], **options)
    with torch.no_grad():
        for layer in module.heads.layers:
            layer.weight.copy_(torch.tensor([0.0, 1.0])[:, None, None, None])
            layer.bias.copy_(torch.tensor([0.0, -0.5]))
    return module


@pytest.fixture
def oblique(tmp_path):
    """Cases whose images are a shifted copy of their label, on an oblique and anisotropic grid."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(4):
        grid, centre = np.indices((14, 12, 6)), rng.uniform(4, 7, 2)
        label = ((grid[0] - centre[0]) ** 2 + (grid[1] - centre[1]) ** 2 < 12) & (grid[2] > 0) & (grid[2] < 5)
        image = np.roll(label, (2, -1), (0, 1)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, OBLIQUE), tmp_path / "images" / f"case_{i}.nii.gz")
        nib.save(nib.Nifti1Image(label.astype(np.uint8), OBLIQUE), tmp_path / "labels" / f"case_{i}.nii.gz")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # monai 1.6 of itself
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 2.0)])
def test_scores_are_of_volumes_in_the_grid_of_the_file_in_mm(oblique, trainer, spacing):
    preprocessing = Preprocessing(orientation="LPS" if spacing else None, spacing=spacing, normalise=())
    split = Split(fractions=(0.5, 0.0, 0.5))
    data = SegmentationDataModule(str(oblique), [14, 12], {"ball": 1}, split=split, preprocessing=preprocessing)
    (found,) = trainer().test(thresholding(["ball"]), datamodule=data, verbose=False)
    expected = {"dice": [], "precision": [], "assd": [], "hd95": []}
    zooms = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    for case in data.cases["test"]:
        truth = torch.tensor(np.asarray(nib.load(case.label).dataobj) == 1)
        prediction = torch.tensor(nib.load(case.images[0]).get_fdata() > 0.5)
        pair = prediction[None, None], truth[None, None]
        expected["dice"].append(2 * (prediction & truth).sum() / (prediction.sum() + truth.sum()))
        expected["precision"].append((prediction & truth).sum() / prediction.sum())
        options = {"include_background": True, "spacing": zooms.tolist()}
        expected["hd95"].append(compute_hausdorff_distance(*pair, percentile=95, **options).item())
        there, back = (compute_average_surface_distance(*p, **options).item() for p in (pair, pair[::-1]))
        expected["assd"].append((there + back) / 2)  # a shifted copy has as many surface points as the original
    exact = spacing is None
    for score, values in expected.items():
        assert found[f"test/{score}"] == pytest.approx(np.mean(values), rel=1e-4 if exact else 0.15)
        assert found[f"test/{score}/ball"] == found[f"test/{score}"]


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # monai 1.6 of itself
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 2.0)])
def test_distances_of_a_run_in_bfloat16_are_in_the_same_mm(oblique, trainer, spacing):
    preprocessing = Preprocessing(orientation=None, spacing=spacing, normalise=())
    data = SegmentationDataModule(
        str(oblique), [14, 12], {"ball": 1}, split=Split((0.5, 0.25, 0.25)), preprocessing=preprocessing
    )
    found = []
    for precision in ("32-true", "bf16-true"):
        module, recorder = thresholding(["ball"], optimizer=partial(torch.optim.SGD, lr=0.0)), CaseRecorder(0, 0)
        trainer(precision=precision).fit(module, datamodule=data)
        found += trainer(precision=precision, callbacks=[recorder]).test(module, datamodule=data, verbose=False)
        assert len(recorder.overlays) == 1
    assert found[0]["test/hd95"] > 1
    assert found[1] == pytest.approx(found[0], rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # monai 1.6 of itself
def test_what_is_scored_is_the_map_after_post_processing(oblique, trainer):
    options = {"split": Split(fractions=(0.5, 0.0, 0.5)), "preprocessing": Preprocessing(None, None, ())}
    data = SegmentationDataModule(str(oblique), [14, 12], {"ball": 1}, **options)
    post = [{"_target_": "BinaryMorphology", "label": 1, "operation": "opening", "radius": 1}]
    (found,) = trainer().test(thresholding(["ball"], post=post), datamodule=data, verbose=False)
    dice = []
    for case in data.cases["test"]:
        truth = np.asarray(nib.load(case.label).dataobj) == 1
        kept = binary_opening(nib.load(case.images[0]).get_fdata() > 0.5)
        assert 0 < kept.sum() < (nib.load(case.images[0]).get_fdata() > 0.5).sum()
        dice.append(2 * (kept & truth).sum() / (kept.sum() + truth.sum()))
    assert found["test/dice"] == pytest.approx(np.mean(dice), rel=1e-6)


def test_names_an_unknown_step_of_post_processing():
    with pytest.raises(ValueError, match="RemoveOutsides"):
        segmenter(post=[{"_target_": "RemoveOutsides", "label": 1}])


def test_logits_are_resampled_to_the_points_of_the_source_grid():
    rng, affine = np.random.default_rng(0), np.diag([2.0, 1.5, 3.0, 1.0])
    source = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1.0])
    source[:3, 3] = 6.0
    volume = rng.normal(size=(12, 12, 8)).astype(np.float32)
    batch = {
        "affine": [affine.tolist()],
        "source_affine": [source.tolist()],
        "source_shape": [(5, 6, 4)],
    }
    found = Segmenter.to_source_grid(torch.tensor(volume)[None, None], batch)
    to_volume = np.linalg.inv(affine) @ source
    by_hand = affine_transform(volume, to_volume[:3, :3], to_volume[:3, 3], (5, 6, 4), order=1, mode="nearest")
    np.testing.assert_allclose(found[0, 0].numpy(), by_hand, atol=1e-4)
