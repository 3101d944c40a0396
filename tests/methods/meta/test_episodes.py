import math

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringDataModule

from lit_continual.callbacks import MetaTune
from lit_continual.data import Episodes, SegmentationDataModule, slice_dice
from lit_continual.data.case_lists.splits import Split
from lit_continual.methods.rehearsal.exemplar_memory_data_module import ExemplarMemoryDataModule
from lit_continual.methods.rehearsal.exemplars import Exemplars
from lit_continual.modules import MAML, Segmenter

NETWORK = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "norm": "BATCH"}
NETWORK |= {"dropout": 0.5}
CLASSES = {"ball": 1, "box": 2}


@pytest.fixture
def data(shapes):
    return SegmentationDataModule(str(shapes), [16, 16], CLASSES, split=Split((0.5, 0.25, 0.25)), seed=0)


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


class Seen(Callback):
    """The patients of each meta-batch."""

    def __init__(self):
        self.patients = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.patients.append({patient for task in batch for part in task for patient in part["patient"]})


@pytest.mark.parametrize("of_data", [None, {"tasks": 2}, {"tasks": 1, "order": "passive"}, Episodes(tasks=2)])
def test_patients_are_ordered_by_the_network_in_training(data, segmenter, trainer, of_data):
    data.episodes, seen = of_data, Seen()
    own = None if isinstance(of_data, Episodes) or of_data == {"tasks": 2} else Episodes(tasks=2)
    data.setup("fit")
    dice, patients = slice_dice(segmenter, data.train_dataset), [v["patient"] for v in data.train_dataset.volumes]
    means = {p: torch.tensor(dice[4 * i : 4 * i + 4]).nanmean() for i, p in enumerate(patients)}
    tuning = MetaTune(MAML(0.01), episodes=own)
    trainer(callbacks=[tuning, seen], max_epochs=1, limit_val_batches=0).fit(segmenter, datamodule=data)
    assert seen.patients == [{p} for p in sorted(means, key=means.get)]
    assert "train_dataloader" not in vars(data)


def test_a_fit_before_has_the_ordinary_batches(data, segmenter, trainer):
    tuning = MetaTune(MAML(0.01), episodes=Episodes(), after=1)
    fitted = trainer(callbacks=tuning, max_epochs=1, limit_val_batches=0)
    fitted.fit(segmenter, datamodule=data)
    assert fitted.num_training_batches == 2  # of eight slices
    assert "train/outer_loss" not in fitted.callback_metrics


@pytest.mark.filterwarnings("ignore:.*no `validation_step`")
def test_refuses_what_has_no_dice_of_slices(data, shapes, module, segmenter, trainer):
    def fit(module, data, **options):
        trainer(callbacks=MetaTune(MAML(), **options)).fit(module, datamodule=data)

    with pytest.raises(ValueError, match=r"`episodes` are of slices, and `patch_size` is \[.*: give it two numbers"):
        fit(segmenter, SegmentationDataModule(str(shapes), [16, 16, 4], CLASSES), episodes=Episodes())
    with pytest.raises(ValueError, match=r"which TinyModule does not tell\. Train a `Segmenter`"):
        fit(module, data, episodes=Episodes(), after=1)
    data.episodes = {"ordr": "active"}
    with pytest.raises(ValueError, match=r"`episodes` of the data has ordr: give only order, threshold"):
        fit(segmenter, data)
    assert "train_dataloader" not in vars(data)


def test_refuses_a_loader_of_something_else(data, segmenter, trainer, tmp_path):
    class Boring(BoringDataModule):
        patch_size = (16, 16)

    ExemplarMemoryDataModule(data, tmp_path / "memory", experience="old").remember(segmenter)
    remembering = ExemplarMemoryDataModule(data, tmp_path / "memory", Exemplars(batches="mixed"), "new")
    for given, found in ((Boring(), "Subset"), (remembering, "ReplayDataset")):
        tuning = MetaTune(MAML(), episodes=Episodes())
        match = f"the data module loads {found}: use a `SegmentationDataModule`, without a memory of exemplars"
        with pytest.raises(MisconfigurationException, match=match):
            trainer(callbacks=tuning, limit_val_batches=0).fit(segmenter, datamodule=given)
        assert "train_dataloader" not in vars(given)
