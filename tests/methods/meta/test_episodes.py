import math

import pytest
import torch

from lit_continual.data import Episodes, SegmentationDataModule, slice_dice
from lit_continual.data.splits import Split
from lit_continual.modules import MAML, MetaTune, Segmenter

NETWORK = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "norm": "BATCH"}
NETWORK |= {"dropout": 0.5}
CLASSES = {"ball": 1, "box": 2}


@pytest.fixture
def data(shapes):
    options = {"split": Split((0.5, 0.25, 0.25)), "episodes": Episodes(tasks=2), "seed": 0}
    return SegmentationDataModule(str(shapes), [16, 16], CLASSES, **options)


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return Segmenter(NETWORK, features=4, heads=[["ball"], ["box"]], roi_size=[16, 16])


def by_hand(segmenter, volume, z):
    segmenter.eval()
    logits = segmenter(volume["image"][None, ..., z].float())
    found = []
    for k in (0, 1):
        prediction, truth = logits[0, 2 * k + 1] > logits[0, 2 * k], volume["label"][0, ..., z] == k + 1
        size = int(prediction.sum() + truth.sum())
        found += [2 * int((prediction & truth).sum()) / size] if size else []
    return sum(found) / len(found) if found else math.nan


def test_dice_of_each_slice(data, segmenter):
    data.setup("fit")
    dataset = data.train_dataset
    expected = [by_hand(segmenter, dataset.volumes[i], z) for i, z in dataset.index]
    segmenter.train()
    segmenter.body.model[0].eval()  # a part that its owner froze
    before, state = {n: m.training for n, m in segmenter.named_modules()}, torch.get_rng_state()
    assert slice_dice(segmenter, dataset) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert {n: m.training for n, m in segmenter.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in segmenter.parameters())


def test_patients_are_ordered_by_the_network_in_training(data, segmenter, trainer):
    fitted = trainer(max_epochs=1, limit_val_batches=0)
    seen = []

    class Seeing(MetaTune):
        def training_step(self, batch, batch_idx):
            seen.append([(inner["patient"], outer["patient"]) for inner, outer in batch])
            return super().training_step(batch, batch_idx)

    tuned = Seeing(segmenter, MAML(0.01))
    data.setup("fit")
    dice, patients = slice_dice(segmenter, data.train_dataset), [v["patient"] for v in data.train_dataset.volumes]
    means = {p: torch.tensor(dice[4 * i : 4 * i + 4]).nanmean() for i, p in enumerate(patients)}
    fitted.fit(tuned, datamodule=data)
    assert [{p for pair in tasks for batch in pair for p in batch} for tasks in seen] == [
        {p} for p in sorted(means, key=means.get)
    ]
    assert all(len(tasks) >= 1 for tasks in seen)


def test_refuses_what_has_no_dice_of_slices(data, shapes, module):
    with pytest.raises(ValueError, match="`episodes` are of slices: give `patch_size` two numbers"):
        SegmentationDataModule(str(shapes), [16, 16, 4], CLASSES, episodes=Episodes())

    data.setup("fit")
    with pytest.raises(ValueError, match=r"which TinyModule does not tell\. Train a `Segmenter`"):
        data.episodes.loader(data.train_dataset, module, seed=0)
