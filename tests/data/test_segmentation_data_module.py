import gc
import json
import os
import pickle
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch.testing import assert_close

from lit_continual.data import Augmentation, Preprocessing, SegmentationDataModule, Split
from lit_continual.data.cache.volume_cache import VolumeCache
from lit_continual.modules import Segmenter
from lit_continual.stream.evaluation import CaseRecorder

FLIP = {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5, "spatial_axis": 0}
HALVES = Split((0.5, 0.25, 0.25))


@pytest.fixture
def module(decathlon):
    def make(folder=None, patch_size=(12, 10), classes=None, **kwargs):
        classes = {"first": 1, "second": 2} if classes is None else classes
        return SegmentationDataModule(
            str(folder or decathlon(8)), list(patch_size), classes, **{"batch_size": 4, "split": HALVES, **kwargs}
        )

    return make


def drawn(dataset, epoch, k):
    dataset.set_epoch(epoch)
    return dataset[k]


@pytest.mark.parametrize("patch", [(12, 10), (12, 10, 6)])
def test_training_batches(module, patch):
    data = module(patch_size=patch, patches_per_volume=3)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == batch["label"].shape == (4, 1, *patch)
    assert batch["image"].dtype == torch.float32
    assert batch["classes"] == [("first", "second")] * 4
    assert set(batch["patient"]) <= {c.patient for c in data.cases["train"]}
    assert len(data.train_dataset) == 4 * (8 if len(patch) == 2 else 3)


@pytest.mark.parametrize(
    ("stage", "split", "loader"), [("validate", "val", "val_dataloader"), ("test", "test", "test_dataloader")]
)
def test_evaluation_batches_are_whole_volumes(module, stage, split, loader):
    data = module(preprocessing=Preprocessing(spacing=(2.0, 2.0, 2.0)))
    data.setup(stage)
    batches = list(getattr(data, loader)())
    assert [b["patient"][0] for b in batches] == [c.patient for c in data.cases[split]]
    for batch in batches:
        assert batch["label"].shape == (1, 1, 14, 12, 8)
        assert batch["image"].shape == (1, 1, 8, 6, 4)
        assert batch["label"].unique().tolist() == [0, 1, 2]
        assert batch["source_shape"] == [(14, 12, 8)]


def test_revealed_classes_are_renamed_and_renumbered(decathlon):
    folder = decathlon(4, labels={"0": "background", "1": "first", "2": "second"})
    data = SegmentationDataModule(str(folder), [12, 10], {"mine": "second"}, split=Split((1, 0, 0)))
    assert data.values == {"mine": 2}
    data.setup("fit")
    volume = data.train_dataset.volumes[0]
    assert volume["label"].unique().tolist() == [0, 1]
    raw = SegmentationDataModule(str(folder), [12, 10], {"a": "first", "b": "second"}, split=Split((1, 0, 0)))
    raw.setup("fit")
    assert torch.equal(volume["label"] == 1, raw.train_dataset.volumes[0]["label"] == 2)
    assert volume["classes"] == ("mine",)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "`classes` is empty. Name what is revealed"),
        ({"third": 3}, r"`classes` has third: 3, but .*dataset.json declares \{background: 0, first: 1, second: 2\}"),
        ({"first": 2}, "`classes` has first: 2"),
        ({"mine": "thrid"}, "`classes` has mine: thrid, but .* Use a declared name and value, or give your name"),
        ({"first": 1, "again": "first"}, "gives the label value 1 two names"),
        (
            {"first": 1, "background": 0},
            "gives the label value 0, that of the background, the name",
        ),
    ],
)
def test_unknown_classes(decathlon, classes, message):
    with pytest.raises(ValueError, match=message):
        _ = SegmentationDataModule(str(decathlon(1)), [8, 8], classes).values


def test_classes_of_a_list_that_declares_none(decathlon):
    folder = str(decathlon(1, labels={}))
    assert SegmentationDataModule(folder, [8, 8], {"any": 2}).values == {"any": 2}
    with pytest.raises(ValueError, match=r"declares no names"):
        _ = SegmentationDataModule(folder, [8, 8], {"any": "bone"}).values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": [8]}, "`patch_size` must be two or three positive numbers"),
        ({"patch_size": [8, 0]}, "`patch_size` must be two or three positive numbers"),
        ({"classes": {"a/b": 1}}, "`classes` must be names without '/'"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        SegmentationDataModule(**{"dataset": "x", "patch_size": [8, 8], **change})


def test_a_class_that_is_in_no_training_case(module, decathlon):
    folder = decathlon(4, values=(1,))
    with pytest.raises(ValueError, match=r"The class second occurs in none of the 2 training cases of .*dataset.json"):
        module(folder).setup("fit")


def test_a_bad_file_stops_the_setup(module, decathlon):
    folder = decathlon(8)
    data = module(folder)
    path = data.cases["val"][0].images[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read as an image"):
        data.setup("fit")


def test_empty_splits(module):
    data = module(split=Split((1, 0, 0)))
    data.setup("fit")
    assert data.val_dataloader() == []
    for stage, name in (("validate", "val"), ("test", "test")):
        with pytest.raises(ValueError, match=f"The {name} split of .*dataset.json is empty.*Change `split`"):
            data.setup(stage)


def test_failing_augmentation_is_found_before_training(module):
    for spatial, message in (
        ({**FLIP, "keys": ["image", "lable"]}, "`augmentation` fails on the training cases of .*lable"),
        ({"_target_": "Resized", "keys": ["image", "label"], "spatial_size": [4, 4]}, r"makes the image \(4, 4\)"),
        # What fails only when it is applied, in one sample of a thousand:
        ({"_target_": "RandFlip", "prob": 0.001}, "`augmentation` fails on the training cases of "),
        (
            {"_target_": "RandRotated", "keys": ["image", "label"], "range_x": 0.3, "prob": 0.001},
            "interpolates between",
        ),
        (
            {"_target_": "RandCoarseDropoutd", "keys": "image", "holes": 1, "spatial_size": [4] * 3, "prob": 0.001},
            "Sequence must have length 2, got 3",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            module(augmentation=Augmentation((spatial,))).setup("fit")


@pytest.mark.parametrize("patch", [(12, 10), (12, 10, 6)])
def test_disk_equals_memory(module, decathlon, patch, tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    folder, augmentation = decathlon(8), Augmentation((FLIP,))
    kept = [module(folder, patch, cache=c, augmentation=augmentation) for c in ("memory", "disk", "disk")]
    for data in kept:
        data.setup("fit")
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.pt")}
    assert len(files) == 6
    for k in range(len(kept[0].train_dataset)):
        first, *others = (drawn(data.train_dataset, 2, k) for data in kept)
        assert all(torch.equal(first[n], other[n]) for other in others for n in ("image", "label"))
    first, *others = (list(data.val_dataloader()) for data in kept)
    assert all(torch.equal(a["label"], b["label"]) for other in others for a, b in zip(first, other, strict=True))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.*t") if p.is_file()} == files  # used again


def test_the_disk_knows_what_its_volumes_depend_on(module, decathlon, tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    folder = decathlon(8)
    count = lambda: len(list((tmp_path / "cache").rglob("*.pt")))  # noqa: E731
    seen = [0]
    for kwargs in ({}, {"classes": {"second": 2}}, {"preprocessing": Preprocessing("LPS")}, {"patch_size": (40, 40)}):
        module(folder, cache="disk", **kwargs).setup("fit")
        seen.append(count())
    assert seen == sorted(set(seen))
    image = module(folder).cases["train"][0].images[0]
    os.utime(image, ns=(1, 1))  # as if written anew
    module(folder, cache="disk").setup("fit")
    assert count() == seen[-1] + 1


def test_a_failing_load_leaves_nothing_in_the_cache(tmp_path, decathlon, monkeypatch):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    cases = SegmentationDataModule(str(decathlon(1)), [8, 8], split=Split((1, 0, 0))).cases["train"]

    def fail(case):
        raise ValueError("bad file")

    with pytest.raises(ValueError, match=r"bad file"):
        VolumeCache(cases, fail, "disk")
    assert [p for p in tmp_path.joinpath("cache").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("patch", [(12, 10), (12, 10, 6)])
def test_cached_targets_are_what_the_teacher_says(module, patch):
    """A teacher that looks at one voxel at a time says the same of a window and of a volume."""
    data = module(patch_size=patch, augmentation=Augmentation((FLIP,)))
    data.setup("fit")
    flat = len(patch) == 2

    def teacher(image):
        assert image.ndim == 2 + len(patch)
        assert image.shape[2:] == patch
        return torch.cat([3 * image, image**2 - 7], 1)

    before = drawn(data.train_dataset, 1, 5)
    data.cache_targets("teacher", teacher)
    after = drawn(data.train_dataset, 1, 5)
    assert torch.equal(before["image"], after["image"])
    image = after["image"]
    expected = torch.cat([3 * image, image**2 - 7])
    # float16 keeps 11 bits: half a unit in the last place is 2^-11 of the value.
    assert (after["teacher"] - expected).abs().le(2**-11 * expected.abs() + 2**-11).all()
    assert next(iter(data.train_dataloader()))["teacher"].shape == (4, 2, *patch)
    assert flat == (after["teacher"].ndim == 3)


def test_half_precision_hardly_moves_a_distillation_loss(module):
    from lit_continual.functional import distillation_loss

    generator = torch.Generator().manual_seed(0)
    teacher, student = (5 * torch.randn(8, 4, 16, 16, generator=generator) for _ in range(2))
    losses = [distillation_loss(student, t, [[0, 1], [2, 3]]) for t in (teacher, teacher.half().float())]
    assert_close(losses[1], losses[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("affine", [None, np.diag([-1.0, -2.0, 3.0, 1.0])], ids=["RAS", "LPS"])
@pytest.mark.parametrize(
    "options", [{"channels": 3}, {"shape": (9, 7, 3)}, {"dtype": "uint8"}, {"shape": (14, 12, 1)}], ids=str
)
def test_ordinary_data(module, decathlon, affine, options):
    data = module(decathlon(8, affine=affine, **options), batch_size=3)
    for stage in ("fit", "test"):
        data.setup(stage)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[1:] == (options.get("channels", 1), 12, 10)
    assert len(list(data.test_dataloader())) == 2


def test_hyperparameters_are_plain(module, tmp_path):
    data = module(preprocessing=Preprocessing("RAS", (1.0, 1.0, 1.0)))
    torch.save(dict(data.hparams), tmp_path / "h.pt")
    loaded = torch.load(tmp_path / "h.pt", weights_only=True)
    assert Preprocessing(**loaded["preprocessing"]) == data.preprocessing
    assert loaded["classes"] == {"first": 1, "second": 2}


def test_the_dataset_can_go_to_a_spawned_worker(module):
    data = module()
    data.setup("fit")
    data.train_dataset.set_epoch(1)
    copied = pickle.loads(pickle.dumps(data.train_dataset))
    assert torch.equal(copied[3]["image"], data.train_dataset[3]["image"])
    copied.set_epoch(2)
    assert data.train_dataset.epoch.value == 1


def test_an_epoch_is_as_long_as_asked(module):
    data = module(samples_per_epoch=10)
    data.setup("fit")
    loader = data.train_dataloader()
    assert [len(b["image"]) for b in loader] == [4, 4, 2]


def test_a_share_of_an_epoch_shows_a_class(module, monkeypatch):
    load = SegmentationDataModule._load_training

    def in_one_slice(*options):
        volume = load(*options)
        volume["label"][..., 1:] = 0  # 4 of 32 slices are left
        return volume

    monkeypatch.setattr(SegmentationDataModule, "_load_training", staticmethod(in_one_slice))

    def shown(**options):
        data = module(samples_per_epoch=10, **options)
        data.setup("fit")
        return sum(data.train_dataset.foreground[k] for k in data.train_dataloader().sampler)

    assert shown() < 5 <= shown(foreground=0.5)
    with pytest.raises(ValueError, match=r"`foreground` is a share between 0 and 1, got 1.5"):
        module(foreground=1.5)


def test_two_volumes_of_one_patient_are_scored_and_named(module, decathlon, trainer):
    folder = decathlon(4, entries=[{"patient": "p"}] * 2 + [{"patient": "q"}, {"patient": "r"}])
    data = module(folder, split=Split((0.34, 0.33, 0.33)))
    data.cases["test"] = [case for case in data.listed.cases if case.patient == "p"]
    recorder, network = CaseRecorder(0, 0), {"_target_": "torch.nn.Identity"}
    segmenter = Segmenter(network, features=1, heads=[["first", "second"]])
    trainer(callbacks=[recorder]).test(segmenter, datamodule=data, verbose=False)
    assert [(case.patient, case.volume, case.label) for case in recorder.cases] == [
        ("p", f"case_{i}", name) for i in range(2) for name in ("first", "second")
    ]
    assert [str(shown["volume"]) for shown in recorder.overlays] == ["case_0", "case_1"]


class Still(LightningModule):
    """A network that counts what it is shown."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), Counter()

    def training_step(self, batch):
        return self.layer(batch["image"].mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen.update(batch["patient"])

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_volumes_are_loaded_once_a_stage_and_let_go_after_it(module, trainer, monkeypatch):
    """Also while somebody keeps the data module, as a stream does."""
    loaded, alive, load = Counter(), [], SegmentationDataModule._load_evaluation

    def counted(case, *options):
        loaded[case.patient] += 1
        volume = load(case, *options)
        alive.append(weakref.ref(volume["image"]))
        return volume

    monkeypatch.setattr(SegmentationDataModule, "_load_evaluation", staticmethod(counted))
    data, still = module(), Still()
    data.setup("fit")
    data.cache_targets("teacher", lambda image: image)
    dataset = data.train_dataset
    alive += [weakref.ref(x) for x in (dataset.volumes[0]["image"], dataset.targets["teacher"][0], dataset)]
    del dataset
    trainer(max_epochs=3).fit(still, datamodule=data)
    val = [case.patient for case in data.cases["val"]]
    assert loaded == Counter(val)
    assert still.seen == Counter(4 * val)  # a check and three epochs
    trainer().test(still, datamodule=data, verbose=False)
    assert loaded == Counter([*val, *(case.patient for case in data.cases["test"])])
    still.trainer = None
    gc.collect()
    assert [reference() for reference in alive] == [None] * len(alive)
    assert len(next(iter(data.train_dataloader()))["image"]) == 4  # and loaded again for whoever asks


def test_seed_of_the_run(module, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert (module().seed, module(seed=3).seed) == (17, 3)


SETS = {
    "Task04_Hippocampus": ((48, 64), {"anterior": 1, "posterior": 2}, 1),
    "Task_HeadNeckCT": ((32, 32, 32), {"mandible": 1, "brainstem": 3}, 1),
    "Task_STS_MR_T1": ((96, 96), {"bone": 1, "tumour": "gtv"}, 1),
    "Task_STS_CT": ((48, 48, 16), {"gtv": 1}, 1),
    "Task_STS_PET": ((48, 48), {"gtv": 1}, 1),
    "Task_Covid19CT": ((96, 96), {"lung": 1, "infection": 2}, 1),
    "Task_LGG_MultiSite": ((96, 96, 8), {"flair_abnormality": 1}, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", SETS)
def test_real_data(real_data, tmp_path, task):
    patch, classes, channels = SETS[task]
    content = json.loads((real_data / task / "dataset.json").read_text())
    extreme = [e for e in content["training"] if "radiopaedia_05" in e["image"]]  # a scan of three slices
    entries = [
        {**e, **{k: str((real_data / task / e[k]).resolve()) for k in ("image", "label")}}
        for e in [*content["training"][:3], *extreme]
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "training": entries}))
    data = SegmentationDataModule(str(tmp_path), list(patch), classes, split=Split((1, 0, 0)))
    data.setup("fit")
    seen = Counter()
    for batch in data.train_dataloader():
        assert batch["image"].shape[1:] == (channels, *patch)
        assert batch["image"].isfinite().all()
        seen.update(batch["label"].unique().tolist())
    assert set(seen) >= set(range(len(classes) + 1))
    if extreme:
        assert min(v["image"].shape[-1] for v in data.train_dataset.volumes) <= 3
