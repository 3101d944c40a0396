import contextlib
import json
from functools import partial

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler

from lit_continual.callbacks import Distillation
from lit_continual.data import (
    Augmentation,
    Budget,
    ExemplarMemoryDataModule,
    Exemplars,
    ItemCandidates,
    SegmentationDataModule,
    SliceCandidates,
    Split,
)
from lit_continual.methods.rehearsal.selection.measurement import measure_samples
from lit_continual.modules import Segmenter

NETWORK = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "dropout": 0.2}
FLIP = {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5, "spatial_axis": 0}
POLICIES = {
    "random": "Random",
    "reservoir": "ClassBalancedReservoir",
    "herding": "Herding",
    "aeiseg": {"_target_": "CertaintyCoverage", "most_certain": 6},
    "coriseg": {"_target_": "ContentCoverage", "most_certain": 6, "network": "own", "layers": ["body.model.0"]},
    "a function": f"{__name__}.last_ones",
}


def last_ones(samples, budget):
    return samples.contains.any(1).nonzero().flatten().flip(0)[:budget].tolist()


@pytest.fixture
def data(shapes):
    def make(name="ball", part=0, size=(16, 16), **options):
        split = Split(fractions=(0.5, 0.25, 0.25), part=(part, 2))
        return SegmentationDataModule(
            str(shapes), [*size], {name: 1 + (name == "box")}, batch_size=4, split=split, seed=0, **options
        )

    return make


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return Segmenter({**NETWORK, "norm": "INSTANCE"}, features=4, heads=[["ball"]])


@pytest.fixture
def memory(data, segmenter, tmp_path):
    """Remember the ball, and return the data of the box with it."""

    def make(exemplars=None, **options):
        exemplars = exemplars or Exemplars(budget=Budget(samples=5))
        ExemplarMemoryDataModule(data(), tmp_path / "memory", exemplars, "ball").remember(segmenter)
        return ExemplarMemoryDataModule(data("box", 1, **options), tmp_path / "memory", exemplars, "box")

    return make


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_policy_keeps_slices_of_training_patients_with_the_class(policy, memory, data):
    module = memory(Exemplars(policy, Budget(samples=5), layer="body.model.0", passes=3))
    stored, cases = module.memory.exemplars, data().cases
    assert [e.rank for e in stored] == list(range(5))
    volumes = {v["patient"]: v for v in data().patches().volumes}
    for e in stored:
        sample, volume = module.memory.load(e), volumes[e.patient]
        assert torch.equal(sample["image"][..., 0], volume["image"][..., e.slice])
        assert torch.equal(sample["label"][..., 0], volume["label"][..., e.slice])
        assert (sample["label"] == 1).any()
        assert e.classes == ["ball"]
        assert e.patient in {case.patient for case in cases["train"]}
        assert e.source.endswith("dataset.json")
        assert e.why == f"{module.exemplars.name}: pick {e.rank + 1} for ball"
    assert bool(stored[0].score) == (policy in (POLICIES["aeiseg"], POLICIES["coriseg"]))
    assert len({(e.patient, e.slice) for e in stored}) == 5


@pytest.mark.parametrize("certainty", ["absolute", "relative"])
def test_what_certainty_means_is_chosen_and_noted(certainty, memory, data, segmenter):
    module = memory(Exemplars("CertaintyCoverage", Budget(samples=5), "body.model.0", passes=3, certainty=certainty))
    dataset = data().patches()
    slices = SliceCandidates(dataset.volumes, (16, 16))
    ball, relative = partial(_ball, segmenter), certainty == "relative"
    by_hand = measure_samples(segmenter, slices.images(), slices.contains(), ball, None, 3, relative=relative)
    expected = by_hand.need("uncertainty", "test")[:, 0].tolist()
    places = {(dataset.volumes[i]["patient"], z): k for k, (i, z) in enumerate(slices.index)}
    for e in module.memory.exemplars:
        assert e.score == {"ball": pytest.approx(expected[places[e.patient, e.slice]])}
    assert module.memory.manifest["experiences"]["ball"]["certainty"] == certainty


def _ball(segmenter, images):
    return segmenter(images).softmax(1)[:, 1:]


@pytest.mark.parametrize("per_class", [True, False])
def test_a_smaller_budget_keeps_the_first(memory, per_class):
    many, few = (
        [(e.patient, e.slice) for e in memory(Exemplars(POLICIES["herding"], b, layer="body.model.0")).memory.exemplars]
        for b in (Budget(samples=6, per_class=per_class), Budget(samples=3, per_class=per_class))
    )
    assert few == many[:3]


def test_the_network_is_left_as_it_was(memory, segmenter):
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    segmenter.train()
    memory(Exemplars(POLICIES["aeiseg"], layer="body.model.0", passes=2))
    assert all(m.training for m in segmenter.modules())
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


def test_whole_volumes_go_by_their_first_pick(memory):
    slices = memory(Exemplars(POLICIES["herding"], Budget(samples=99), layer="body.model.0")).memory.exemplars
    module = memory(Exemplars(POLICIES["herding"], Budget(volumes=1), layer="body.model.0"))
    (whole,) = module.memory.exemplars
    assert whole.patient == slices[0].patient
    assert whole.slice is None
    assert module.memory.load(whole)["image"].shape == (1, 16, 16, 4)
    module.setup("fit")
    assert len(module.stored) == 4


def test_three_dimensions_keep_volumes(data, tmp_path):
    torch.manual_seed(0)
    network = {**NETWORK, "spatial_dims": 3}
    keep = Exemplars({"_target_": "CertaintyCoverage"}, Budget(samples=1), layer="body.model.0", passes=2)
    part = partial(data, size=(16, 16, 4), patches_per_volume=3)
    module = ExemplarMemoryDataModule(part(), tmp_path, keep, "ball")
    assert len(module.remember(Segmenter(network, features=4, heads=[["ball"]]))) == 1
    later = ExemplarMemoryDataModule(part("box", 1), tmp_path, keep, "box")
    later.setup("fit")
    assert len(later.stored) == 3


def test_an_exemplar_free_memory_measures_nothing_and_says_so(memory):
    module = memory(Exemplars("Herding", Budget(samples=0)))
    assert module.memory.manifest["exemplar_free"] is True
    module.setup("fit")
    assert "origin" not in next(iter(module.train_dataloader()))


@pytest.mark.parametrize("stored", ["ball,left", ["ball", "left"]], ids=["of an older version", "of this one"])
def test_class_names_come_back_from_a_manifest(memory, stored):
    module = memory(Exemplars(budget=Budget(samples=2)))
    content = json.loads(module.memory.path.read_text())
    assert [entry["values"]["classes"] for entry in content["exemplars"]] == [["ball"]] * 2
    for entry in content["exemplars"]:
        entry["values"]["classes"] = stored
    module.memory.path.write_text(json.dumps(content))
    module.setup("fit")
    assert module.stored[0]["classes"] == ("ball", "left")


@pytest.mark.parametrize("batches", ["pure", "mixed"])
def test_batches_say_where_their_samples_come_from(memory, batches):
    module = memory(Exemplars(budget=Budget(samples=5), batches=batches, share=0.5))
    module.setup("fit")
    loader = module.train_dataloader()
    keys = ("origin", "classes", "patient")
    seen = [triple for batch in loader for triple in zip(*(batch[k] for k in keys), strict=True)]
    assert {triple[:2] for triple in seen} == {("new", ("box",)), ("exemplar", ("ball",))}
    assert {p for o, _, p in seen if o == "exemplar"} <= {e.patient for e in module.memory.exemplars}
    for batch in loader:
        assert batch["image"].shape[1:] == (1, 16, 16)
        assert (len(set(batch["origin"])) == 1) == (batches == "pure")


def test_exemplars_are_augmented_as_new_samples_are(memory):
    module = memory(augmentation=Augmentation(spatial=(FLIP,)))
    module.setup("fit")
    plain = [module.memory.load(e)["image"][..., 0] for e in module.memory.exemplars]
    for epoch in range(3):
        module.stored.set_epoch(epoch)
        for k, image in enumerate(plain):
            drawn = module.stored[k]["image"]
            assert torch.equal(drawn, image) or torch.equal(drawn, image.flip(1))
    flipped = []
    for epoch in range(6):
        module.stored.set_epoch(epoch)
        flipped.append(not torch.equal(module.stored[0]["image"], plain[0]))
    assert any(flipped)


def test_without_exemplars_of_others_it_is_the_wrapped_module(data, segmenter, tmp_path):
    module = ExemplarMemoryDataModule(data(), tmp_path, experience="ball")
    module.remember(segmenter)
    module.setup("fit")
    plain = data()
    plain.setup("fit")
    for mine, theirs in zip(module.train_dataloader(), plain.train_dataloader(), strict=True):
        assert mine.keys() == theirs.keys()
        assert torch.equal(mine["image"], theirs["image"])
    assert module.hparams == plain.hparams
    assert (module.classes, module.patch_size) == (plain.classes, plain.patch_size)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


def test_eq_1_takes_the_labels_of_exemplars_off_under_distillation_only(memory, segmenter, trainer):
    module, seen = memory(Exemplars(budget=Budget(samples=5), share=0.5)), []
    step = Segmenter.training_step

    class Watched(Segmenter):
        def training_step(self, batch, batch_idx):
            seen.extend(zip(batch["origin"], batch["classes"], strict=True))
            return step(self, batch, batch_idx)

    segmenter.__class__ = Watched
    for callbacks, exemplar in (([Distillation(teacher="start")], ()), ([], ("ball",))):
        seen.clear()
        trainer(callbacks=callbacks, limit_val_batches=0).fit(segmenter, datamodule=module)
        assert set(seen) == {("new", ("box",)), ("exemplar", exemplar)}


def test_alone_exemplars_train_their_own_head(memory, segmenter, trainer, data):
    def trained(datamodule):
        torch.manual_seed(0)
        module = Segmenter({**NETWORK, "norm": "INSTANCE"}, features=4, heads=[["ball"]])
        before = module.heads.layers[0].weight.clone()
        trainer(limit_val_batches=0).fit(module, datamodule=datamodule)
        return (module.heads.layers[0].weight - before).abs().max()

    assert trained(memory()) > 1e-4
    assert trained(data("box", 1)) < 1e-4  # no gradient, only weight decay


@pytest.mark.parametrize(
    ("norm", "batches", "callbacks", "warned"),
    [
        ("BATCH", "pure", [], True),
        ("BATCH", "mixed", [], False),
        ("INSTANCE", "pure", [], False),
        ("BATCH", "pure", [Distillation(teacher="start")], False),
    ],
)
def test_a_network_that_may_know_exemplars_by_their_statistics_is_warned_of(
    memory, trainer, norm, batches, callbacks, warned
):
    module = Segmenter({**NETWORK, "norm": norm}, features=4, heads=[["ball"]])
    data = memory(Exemplars(budget=Budget(samples=5), share=0.5, batches=batches))
    says = pytest.warns(UserWarning, match="Set `batches: mixed`") if warned else contextlib.nullcontext()
    with says:  # any other warning is an error
        trainer(callbacks=callbacks, limit_val_batches=0).fit(module, datamodule=data)


def test_cached_targets_of_exemplars_are_those_of_the_teacher(memory, segmenter, trainer):
    module = memory(Exemplars(budget=Budget(samples=5), share=0.5))
    callback = Distillation(teacher="start", targets="cached")
    fit = trainer(callbacks=[callback], limit_val_batches=0)
    fit.fit(segmenter, datamodule=module)
    assert fit.callback_metrics["train/distillation"] > 0
    assert module.stored.targets["distillation"][0].shape == (2, 16, 16, 1)


class Plain(LightningDataModule):
    """Somebody else's data: no patches, no candidates, a hook of its own."""

    def __init__(self, offset=0.0, **loader):
        super().__init__()
        self.loader, self.offset = {"batch_size": 2, "shuffle": True, **loader}, offset

    def setup(self, stage):
        values = torch.arange(6.0) + self.offset
        self.items = [
            {"image": v.expand(1, 4, 4).clone(), "label": (v % 2).long() + 1, "patient": str(v)} for v in values
        ]

    def train_dataloader(self):
        return DataLoader(self.items, **self.loader)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {**batch, "transferred": True}


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Conv2d(1, 1, 1), []

    def forward(self, image):
        return self.layer(image)

    def training_step(self, batch):
        assert batch["transferred"]
        self.seen += zip(batch["image"][:, 0, 0, 0].tolist(), batch.get("origin", ["new"] * 2), strict=True)
        return self(batch["image"]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_wraps_any_data_module(trainer, tmp_path):
    module, keep = Tiny(), Exemplars("Herding", Budget(samples=2), layer="layer")
    for name, offset in (("first", 0), ("second", 10)):
        data, module.seen = ExemplarMemoryDataModule(Plain(offset), tmp_path, keep, name), []
        trainer(num_sanity_val_steps=0).fit(module, datamodule=data)
        data.remember(module)
    stored = [data.memory.load(e) for e in data.memory.exemplars]
    assert len(stored) == 2  # one class, shared by both experiences
    new = [(10.0 + i, "new") for i in range(6)]
    assert sorted(module.seen)[2:] == new
    assert {origin for _, origin in sorted(module.seen)[:2]} == {"exemplar"}


def test_candidates_are_those_of_the_data_module_or_slices_of_its_patches_or_its_samples(data, tmp_path):
    def found(module):
        return ExemplarMemoryDataModule(module, tmp_path)._candidates()

    patches = data().patches()
    slices = found(data())
    assert slices.index == SliceCandidates(patches.volumes, patches.patch_size).index
    assert torch.equal(slices.sample(3, whole=False)["image"], patches.volumes[0]["image"][..., 3:4])
    module = data()
    module.setup("fit")
    assert found(module).volumes is module.train_dataset.volumes  # nothing is read twice
    module.candidates = lambda: "my own"
    assert found(module) == "my own"
    plain = Plain()
    plain.train_dataset = patches  # but it could not take slices back
    assert isinstance(found(plain), ItemCandidates)


class Endless(IterableDataset):
    def __iter__(self):
        yield {"image": torch.zeros(1, 4, 4)}


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(Endless(), batch_size=2),
        lambda: DataLoader([0, 1], batch_size=2, sampler=WeightedRandomSampler([1.0, 1.0], 2)),
        lambda: {"a": DataLoader([0, 1])},
    ],
    ids=["iterable", "own sampler", "several"],
)
def test_a_loader_that_cannot_be_mixed_is_refused_before_anything_is_stored(loader, tmp_path):
    data = Plain()
    data.train_dataloader = loader
    module = ExemplarMemoryDataModule(data, tmp_path)
    module.setup("fit")
    with pytest.raises(
        MisconfigurationException, match=r"cannot be mixed into what Plain.train_dataloader\(\) returns"
    ):
        module.train_dataloader()


def test_refuses_samples_and_settings_that_cannot_be_right(tmp_path, data):
    strange = Plain()
    strange.setup = lambda stage: setattr(strange, "items", [(1, 2)])
    with pytest.raises(ValueError, match=r"mappings with a tensor `image`, and the data module has tuples"):
        ExemplarMemoryDataModule(strange, tmp_path).remember(Tiny())
    with pytest.raises(ValueError, match=r"whole volumes needs a data module with `candidates\(\)`"):
        ExemplarMemoryDataModule(Plain(), tmp_path, Exemplars(budget=Budget(volumes=1))).remember(Tiny())
    with pytest.raises(ValueError, match=r"`share` of exemplars must lie between 0 and 1, got 1"):
        Exemplars(share=1)
    with pytest.raises(ValueError, match=r"There is no `Randm` in lit_continual. Correct the policy `Randm`"):
        Exemplars("Randm")
    with pytest.raises(ValueError, match=r"`passes` must be at least 2 for them to vary, got 1"):
        Exemplars(passes=1)
    with pytest.raises(ValueError, match=r"There is no memory in .*none"):
        Exemplars(start=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("exemplars", "message"),
    [
        (Exemplars("Herding"), r"name of the network's abstraction layer: give it as `layer`"),
        (Exemplars("Herding", layer="body.down"), r"has no layer `body.down`; the nearest names are"),
        (Exemplars("CertaintyCoverage", layer="body.model.0"), r"has no dropout module with p > 0"),
    ],
)
def test_what_cannot_be_chosen_is_said_before_training(exemplars, message, data, trainer, tmp_path):
    module = Segmenter({**NETWORK, "norm": "INSTANCE", "dropout": 0.0}, features=4)
    module.training_step = lambda *args: pytest.fail("trained")
    with pytest.raises(ValueError, match=message):
        trainer(num_sanity_val_steps=0).fit(module, datamodule=ExemplarMemoryDataModule(data(), tmp_path, exemplars))


def test_a_class_that_the_network_does_not_know_has_no_certainty(data, tmp_path):
    keep = Exemplars("CertaintyCoverage", layer="body.model.0", passes=2)
    module = Segmenter(NETWORK, features=4, heads=[["bone"]])
    with pytest.raises(ValueError, match=r"certainty of ball is not known to `Segmenter`, whose classes are bone"):
        ExemplarMemoryDataModule(data(), tmp_path, keep).remember(module)


def test_a_run_may_begin_with_the_memory_of_another(memory, data, trainer, tmp_path):
    first = memory()
    keep = Exemplars(budget=Budget(samples=2), start=str(first.memory.folder))
    later = ExemplarMemoryDataModule(data("box", 1), tmp_path / "later", keep, "box")
    later.setup("fit")
    assert len(later.stored) == 5
    assert {origin for batch in later.train_dataloader() for origin in batch["origin"]} == {"new", "exemplar"}


CHANGES = {
    "channels": lambda sample: {**sample, "image": torch.cat([sample["image"]] * 2)},
    "axes": lambda sample: {name: v[0] if name in ("image", "label") else v for name, v in sample.items()},
    "no label": lambda sample: {name: sample[name] for name in sample if name != "label"},
}


def begin(module):
    module.setup("fit")
    return module.train_dataloader()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("first", [0, 4])
def test_exemplars_that_can_be_in_no_batch_with_new_samples_are_named(change, ours, first, memory, monkeypatch):
    module = memory()
    stored = [module.memory.load(exemplar) for exemplar in module.memory.exemplars]
    given = iter([*stored[:first], *map(CHANGES[change], stored[first:])])
    monkeypatch.setattr(module.memory, "load", lambda exemplar: next(given))
    if not ours:  # somebody's, that takes samples as they were stored
        monkeypatch.setattr(module.data, "replayed", lambda samples: samples)
    with pytest.raises(ValueError, match=r"xemplars? in .*memory.* Give a memory of images like the new ones"):
        begin(module)


def test_a_network_looks_at_the_middle_of_the_foreground():
    label = torch.zeros(1, 9, 9, 2, dtype=torch.uint8)
    label[0, 6:8, 0, 1] = 2
    volume = {"image": torch.arange(162.0).view(1, 9, 9, 2), "label": label, "classes": ("a", "b"), "patient": "p"}
    slices = SliceCandidates([volume], (4, 3))
    assert slices.contains().tolist() == [[False, False], [False, True]]
    first, second = slices.images()[0:2]
    assert torch.equal(first, volume["image"][:, 2:6, 3:6, 0])
    assert torch.equal(second, volume["image"][:, 5:9, 0:3, 1])
