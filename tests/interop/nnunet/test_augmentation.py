"""Patches are augmented by the transforms of nnU-Net."""

import numpy as np
import pytest
import torch

from lit_continual import NNUNetDataModule
from lit_continual.cli import main
from lit_continual.data import Split
from lit_continual.data.segmentation_data_module import Augmentation
from lit_continual.interop.nnunet.nnunet_patches import NNUNetPatches, training_transforms
from lit_continual.interop.nnunet.trained import Trained
from lit_continual.modules import NNUNetSegmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from tests.interop.nnunet.test_learn import config


def samples(start, raw, **given):
    data = NNUNetDataModule(
        str(raw), classes={"cone": 1}, split=Split(fractions=(1.0, 0.0, 0.0)), nnunet_augmentation=True, **given
    )
    data.follow(start)
    return data.patches()


@pytest.mark.parametrize("dims", [2, 3])
def test_samples_are_what_the_transforms_make_of_a_larger_patch(toy, raw, dims):
    start = Checkpoint(toy(dims=dims))
    found = samples(start, raw, seed=5)
    found.set_epoch(3)
    size, k = found.patch_size, 7
    assert isinstance(found, NNUNetPatches)
    assert all(cut > wanted for cut, wanted in zip(found.cut_size, size, strict=True))
    random = np.random.default_rng([5, 3, k])
    volume = found.volumes[found.index[k][0]]
    window = found._window(volume["label"], k, random)
    margins = [(cut - wanted) for cut, wanted in zip(found.cut_size, size, strict=True)]
    wide = [(m // 2, m - m // 2) for m in margins] + [(0, 0)] * (3 - dims)
    image = np.pad(volume["image"].numpy(), [(0, 0), *wide])
    label = np.where(volume["outside"], -1, volume["label"].short())
    label = np.pad(label, [(0, 0), *wide], constant_values=-1)
    cut = [slice(part.start, part.start + c) for part, c in zip(window[1:], found.cut_size, strict=False)]
    cut = (slice(None), *cut, *window[1 + dims :])
    transforms, _ = training_transforms(Trained.of(start.hyper_parameters["trained"]), size)
    seed = int(random.integers(2**32))
    torch.manual_seed(seed)
    np.random.seed(seed)
    expected = transforms(image=torch.from_numpy(image[cut]), segmentation=torch.from_numpy(label[cut].copy()))
    sample = found[k]
    assert sample["image"].shape[1:] == sample["label"].shape[1:] == torch.Size(size)
    assert torch.equal(sample["image"], expected["image"])
    assert torch.equal(sample["label"], expected["segmentation"].byte())


def test_a_sample_is_the_same_whoever_draws_it_and_leaves_the_random_state_alone(toy, raw):
    start = Checkpoint(toy())
    one, two = samples(start, raw), samples(start, raw)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1]
    first = one[2]
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    torch.rand(3)
    _ = two[1]
    assert torch.equal(first["image"], two[2]["image"])
    two.set_epoch(1)
    assert not torch.equal(first["image"], two[2]["image"])


def test_noise_is_taken_away_outside_of_the_mask_of_the_plans(toy, raw):
    found = samples(Checkpoint(toy()), raw)
    drawn = [found[k] for k in range(len(found))]
    assert any((sample["image"] == 0).any() for sample in drawn)
    assert all((sample["label"] <= 1).all() for sample in drawn)
    assert sum(int(sample["label"].sum()) for sample in drawn) > 0


@pytest.mark.parametrize(("trainer", "mirrored"), [("nnUNetTrainer", True), ("nnUNetTrainerNoMirroring", False)])
def test_the_trainer_of_the_model_says_how(toy, trainer, mirrored):
    start = Checkpoint(toy())
    trained = Trained.of({**start.hyper_parameters["trained"], "trainer": trainer})
    transforms, _ = training_transforms(trained, trained.patch_size)
    assert any("Mirror" in type(step).__name__ for step in transforms.transforms) == mirrored


@pytest.mark.parametrize("dims", [2, 3])
def test_cached_answers_go_through_the_spatial_transforms(toy, raw, dims):
    found = samples(Checkpoint(toy(dims=dims)), raw)
    found.ask("teacher", lambda image: torch.cat([image, 2 * image], 1))
    found.transforms.transforms = [
        step for step in found.transforms.transforms if type(step).__name__ in ("SpatialTransform", "MirrorTransform")
    ]
    for k in range(6):
        sample = found[k]
        torch.testing.assert_close(sample["teacher"][:1], sample["image"], atol=2e-2, rtol=2e-2)  # kept in half
        torch.testing.assert_close(sample["teacher"][1], 2 * sample["image"][0], atol=4e-2, rtol=4e-2)


def test_a_stream_trains_with_it(toy, raw, tmp_path):
    distillation = {"class_path": "Distillation", "init_args": {"alpha": 0.5, "targets": "cached"}}
    given = config(raw, tmp_path, distillation, nnunet_augmentation=True, num_workers=1)
    main(["fit", "--config", given, f"--stream.start={toy()}", "--trainer.limit_train_batches=2"])
    module = Checkpoint(tmp_path / "run/experiences/0_cone/model.ckpt").module(NNUNetSegmenter)
    assert module.classes == ["ball", "box", "cone"]


def test_two_augmentations_are_refused():
    own = Augmentation(intensity=({"class_path": "RandGaussianNoised", "init_args": {"keys": "image"}},))
    with pytest.raises(ValueError, match=r"`nnunet_augmentation` takes the place of `augmentation`. Give one"):
        NNUNetDataModule("data", nnunet_augmentation=True, augmentation=own)
