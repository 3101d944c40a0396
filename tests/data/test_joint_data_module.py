import json
import shutil
from collections import Counter

import pytest
import torch

from lit_continual.data import Augmentation, JointDataModule, SegmentationDataModule, Split


@pytest.fixture
def parts(decathlon):
    folder = str(decathlon(8))

    def make(**kwargs):
        return [
            SegmentationDataModule(
                folder, [12, 10], {name: k + 1}, 4, Split((0.75, 0, 0.25), part=(k, 2)), **{"seed": 5, **kwargs}
            )
            for k, name in enumerate(["first", "second"])
        ]

    return make


@pytest.fixture
def strangers(decathlon, tmp_path):
    """Two data sets that declare different labels."""
    folder, other = decathlon(8), tmp_path / "other"
    shutil.copytree(folder, other)
    listed = json.loads((other / "dataset.json").read_text())
    listed["labels"] = {"0": "background", "1": "rest", "2": "second"}
    (other / "dataset.json").write_text(json.dumps(listed))
    kinds = {"first": (folder, 1), "second": (other, 2)}
    return [
        SegmentationDataModule(str(f), [12, 10], {name: k}, 4, Split((0.75, 0, 0.25), part=(k - 1, 2)), seed=5)
        for name, (f, k) in kinds.items()
    ]


def test_one_annotation_of_several_experiences_is_one_head(parts):
    parts = parts()
    joint = JointDataModule(parts)
    joint.setup("fit")
    assert joint.head_classes == [["first", "second"]]
    for batch in joint.train_dataloader():
        assert set(batch["classes"]) == {("first", "second")}
    for part, alone in zip(joint.parts, parts, strict=True):
        for mine, own in zip(part.patches().volumes, alone.patches().volumes, strict=True):
            kept = (mine["label"] == 1 + list(joint.classes).index(*alone.classes)).long()
            assert torch.equal(kept, own["label"].long())
    assert [list(part.classes) for part in parts] == [["first"], ["second"]]


def test_every_sample_of_every_part_with_its_own_classes(strangers):
    parts = strangers
    joint = JointDataModule(parts)
    joint.setup("fit")
    seen, owners = Counter(), {(name,): set() for name in ("first", "second")}
    for batch in joint.train_dataloader():
        for image, label, classes, patient in zip(
            batch["image"], batch["label"], batch["classes"], batch["patient"], strict=True
        ):
            seen[(patient, float(image.double().sum()))] += 1
            owners[classes].add(patient)
            assert set(label.unique().tolist()) <= {0, 1}
    assert sum(seen.values()) == len(joint.train_dataset) == sum(len(p.patches()) for p in parts)
    assert set(seen.values()) == {1}
    for part, name in zip(parts, owners, strict=True):
        assert owners[name] == {c.patient for c in part.cases["train"]}


def test_a_sample_is_that_of_its_part_in_that_epoch(parts):
    flip = {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5}
    joint = JointDataModule(parts(augmentation=Augmentation((flip,))))
    joint.setup("fit")
    alone = [part.patches() for part in joint.parts]
    whole = [(d, k) for d in alone for k in range(len(d))]
    for epoch in range(2):
        for dataset in (joint.train_dataset, *alone):
            dataset.set_epoch(epoch)
        for i, (dataset, k) in enumerate(whole):
            first, second = joint.train_dataset[i], dataset[k]
            assert torch.equal(first["image"], second["image"])
            assert first["classes"] == second["classes"]


def test_heads_classes_and_what_a_checkpoint_keeps(strangers):
    joint = JointDataModule(strangers)
    assert joint.head_classes == [["first"], ["second"]]
    assert joint.classes == joint.hparams["classes"] == {"first": 1, "second": 2}
    assert joint.hparams["preprocessing"] == joint.parts[0].hparams["preprocessing"]


def test_an_epoch_is_as_long_as_those_of_the_parts(parts):
    joint = JointDataModule(parts(samples_per_epoch=5))
    joint.setup("fit")
    assert sum(len(b["image"]) for b in joint.train_dataloader()) == 10
    own = [len(part.patches()) for part in joint.parts]
    joint.parts[0].samples_per_epoch = 10 * own[0]  # of which it has so many only, and the others do not make up
    assert sum(len(b["image"]) for b in joint.train_dataloader()) == own[0] + 5


def test_the_share_of_foreground_is_that_of_all_parts_together(parts, monkeypatch):
    load = SegmentationDataModule._load_training

    def in_one_slice(*options):
        volume = load(*options)
        volume["label"][..., 1:] = 0
        return volume

    monkeypatch.setattr(SegmentationDataModule, "_load_training", staticmethod(in_one_slice))
    joint = JointDataModule(parts(samples_per_epoch=5, foreground=0.6))
    joint.setup("fit")
    shown = [found for part in joint.train_dataset.datasets for found in part.foreground]
    assert sum(shown[k] for k in joint.train_dataloader().sampler) >= 6


def test_parts_that_are_none():
    with pytest.raises(ValueError, match=r"Joint training needs SegmentationDataModules, got dict"):
        JointDataModule([{}])
