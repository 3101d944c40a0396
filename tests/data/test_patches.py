from collections import Counter
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch
from monai.data import get_track_meta
from torch.utils.data import DataLoader, SequentialSampler

from lit_continual.data import EpochSampler, PatchDataset, WholeSampler, collate
from lit_continual.methods.rehearsal.replay import ReplaySampler

KEYS = {"keys": ["image", "label"]}
AFFINE = {"_target_": "RandAffined", **KEYS, "prob": 1.0, "rotate_range": 0.4, "scale_range": 0.2, "translate_range": 3}
AFFINE |= {"mode": ["bilinear", "nearest"], "padding_mode": "border"}
FLIP = {"_target_": "RandFlipd", **KEYS, "prob": 0.5, "spatial_axis": 0}
NOISE = {"_target_": "RandGaussianNoised", "keys": "image", "prob": 1.0, "std": 0.1}


def volume(seed, shape=(24, 20, 6), foreground=True):
    """Smooth noise; the label says where it is positive."""
    noise = torch.randn(1, 1, 6, 6, 4, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(noise, shape, mode="trilinear", align_corners=True)[0]
    label = (image > 0).to(torch.uint8) if foreground else torch.zeros(1, *shape, dtype=torch.uint8)
    return {"image": image, "label": label, "classes": ("a",), "patient": f"p{seed}"}


@pytest.fixture
def volumes():
    return [volume(seed) for seed in range(3)]


def same(first, second):
    return all(torch.equal(v, second[k]) if torch.is_tensor(v) else v == second[k] for k, v in first.items())


def drawn(dataset, epoch, k):
    dataset.set_epoch(epoch)
    return dataset[k]


def test_every_slice_once(volumes):
    dataset = PatchDataset(volumes, [24, 20])
    assert len(dataset) == 18
    for k in range(18):
        sample, (i, z) = dataset[k], divmod(k, 6)
        assert torch.equal(sample["image"], volumes[i]["image"][..., z])
        assert torch.equal(sample["label"], volumes[i]["label"][..., z])
        assert (sample["patient"], sample["classes"]) == (f"p{i}", ("a",))


@pytest.mark.parametrize("patch", [(9, 7), (9, 7, 3)])
def test_patches_are_windows_of_the_volume(volumes, patch):
    for v in volumes:  # tells every voxel from the others
        v["image"] = torch.arange(24 * 20 * 6).reshape(1, 24, 20, 6).float()
        v["label"] = (v["image"] % 5).to(torch.uint8)
    dataset = PatchDataset(volumes, patch, patches_per_volume=5)
    corners = set()
    for epoch in range(4):
        for k in range(len(dataset)):
            sample = drawn(dataset, epoch, k)
            assert sample["image"].shape == sample["label"].shape == (1, *patch)
            x, rest = divmod(int(sample["image"].flatten()[0]), 120)
            window = (slice(x, x + 9), slice(rest // 6, rest // 6 + 7), slice(rest % 6, rest % 6 + ((*patch, 1))[2]))
            assert torch.equal(sample["image"].reshape(9, 7, -1), volumes[0]["image"][0][window])
            assert torch.equal(sample["label"].reshape(9, 7, -1), volumes[0]["label"][0][window])
            corners.add((x, rest // 6))
    assert len(corners) > 20
    assert {0, 24 - 9} <= {x for x, _ in corners}  # the windows reach both ends


def test_two_of_three_patches_are_centred_on_a_class():
    label = torch.zeros(1, 40, 40, 40, dtype=torch.uint8)
    label[0, 30, 31, 8] = 2
    lone = {"image": torch.zeros(1, 40, 40, 40), "label": label, "classes": ("a", "b"), "patient": "p"}
    dataset = PatchDataset([lone], [5, 5, 5], patches_per_volume=600)
    centred = sum(int(dataset[k]["label"][0, 2, 2, 2]) == 2 for k in range(600))
    assert 340 < centred < 460  # 400, give or take five deviations


SPOTS = {1: (15, 16, 4), 2: (4, 15, 10), 3: (10, 5, 16)}  # a class each; the first is annotated


def spotted(annotated=True):
    """A volume in which a network that is the identity sees three classes."""
    image, label = torch.zeros(1, 20, 20, 20), torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    for value, spot in SPOTS.items():
        image[(0, *spot)] = value
    if annotated:
        label[(0, *SPOTS[1])] = 1
    return {"image": image, "label": label, "classes": ("a",), "patient": "p"}


def centred_on(dataset, middle):
    """How many samples have each value at their middle."""
    return Counter(int(dataset[k]["image"][(0, *middle)]) for k in range(len(dataset)))


@pytest.mark.parametrize(("share", "annotated"), [(0.0, True), (0.5, True), (0.75, True), (1.0, True), (0.5, False)])
def test_a_share_of_the_centres_is_on_other_classes_each_as_often(share, annotated):
    lone = spotted(annotated)
    dataset = PatchDataset([lone], [5, 5, 5], patches_per_volume=1200)
    before = [dataset[k]["image"] for k in range(30)]
    dataset.centre(lambda images: images, lambda values: torch.where(values > 1, values, 0)[:, 0], share)
    found = centred_on(dataset, (2, 2, 2))
    expected = {1: 800 * (1 - share), 2: 400 * share, 3: 400 * share} if annotated else {1: 0, 2: 400, 3: 400}
    for value, count in expected.items():
        assert abs(found[value] - count) <= 5 * max(1, count**0.5)
    dataset.close()
    assert all(torch.equal(dataset[k]["image"], one) for k, one in enumerate(before))  # as without


def test_windows_of_a_slice_are_centred_on_other_classes_of_that_slice():
    lone = spotted()
    dataset = PatchDataset([lone], [5, 5])
    dataset.centre(lambda images: images, lambda values: torch.where(values > 1, values, 0)[:, 0], 0.5)
    for value, (_, _, z) in SPOTS.items():
        seen = [drawn(dataset, epoch, z)["image"][0] for epoch in range(60)]
        assert 25 < sum(int(one[2, 2]) == value for one in seen) < 55  # 40
    drawn(dataset, 0, 0)  # no class is in this slice


@pytest.mark.parametrize(("share", "annotated"), [(0.0, True), (0.5, True), (1.0, True), (0.5, False)])
def test_a_share_of_the_slices_that_are_chosen_show_other_classes_each_as_often(share, annotated):
    """A patch is a whole slice; 0.8 of an epoch of 30 samples are slices of a class."""
    dataset = PatchDataset([spotted(annotated), spotted(annotated)], [20, 20])
    dataset.centre(lambda images: images, lambda values: torch.where(values > 1, values, 0)[:, 0], share, slices=True)
    sampler = EpochSampler(dataset, 0, 30, 1, 0, 0, 0.8, lambda: dataset.foreground, dataset.old_slices)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seen = Counter(dataset.index[k][1] for k in sampler)
        count = {value: seen[z] for value, (_, _, z) in SPOTS.items()}
        expected = {1: 24 * (1 - share) if annotated else 0, 2: 12 * share, 3: 12 * share}
        assert sum(seen.values()) == 30
        assert all(expected[value] <= count[value] <= expected[value] + 2 for value in SPOTS), count


@pytest.mark.parametrize("slices", [False, True])
def test_the_network_is_asked_only_about_volumes_of_which_something_can_be_chosen(slices):
    whole = {**spotted(), "image": torch.full((1, 5, 5, 20), 9.0), "label": torch.zeros(1, 5, 5, 20, dtype=torch.uint8)}
    dataset, asked = PatchDataset([spotted(), whole], [5, 5]), set()

    def predict(images):
        asked.add(bool((images == 9).all()))
        return images

    dataset.centre(predict, lambda values: torch.zeros_like(values[:, 0]), 0.5, slices)
    assert asked == ({False, True} if slices else {False})
    assert len(dataset.old.found) == 2


@pytest.mark.parametrize(("size", "told"), [([20, 20], True), ([20, 20, 20], True), ([20, 19], False)])
def test_patches_that_nothing_centres_are_told(size, told):
    dataset = PatchDataset([spotted()], size)
    with pytest.warns(UserWarning, match="is the whole of each training slice") if told else nullcontext():
        dataset.centre(lambda images: images, lambda values: values[:, 0], 0.5)


def test_two_of_three_windows_are_centred_on_a_class_of_their_slice_where_there_is_room():
    label = torch.zeros(1, 40, 30, 2, dtype=torch.uint8)
    label[0, 29, 11, 1] = 2
    lone = {"image": torch.zeros(1, 40, 30, 2), "label": label, "classes": ("a", "b"), "patient": "p"}
    dataset = PatchDataset([lone], [5, 5])
    assert 340 < sum(int(drawn(dataset, epoch, 1)["label"][0, 2, 2]) == 2 for epoch in range(600)) < 460
    assert dataset.foreground == [False, True]
    whole = PatchDataset([lone], [40, 30])
    assert torch.equal(whole[1]["label"], label[..., 1])


def test_a_share_of_an_epoch_is_of_slices_with_a_class():
    marked = [k % 10 == 0 for k in range(50)]
    make = lambda share, samples=20, ranks=1, rank=0: EpochSampler(  # noqa: E731
        range(50), 0, samples, ranks, rank, 0, share, lambda: marked
    )
    for epoch in range(20):
        sampler = make(0.5)
        sampler.set_epoch(epoch)
        order = sampler.order()
        assert len(order) == 20
        assert sum(marked[k] for k in order) >= 10  # five of them, each twice
        assert all(order.count(k) == 2 for k in range(0, 50, 10))
        assert len({k for k in order if not marked[k]}) == 10
        assert order != sorted(order, key=lambda k: not marked[k])  # mixed
    assert sum(marked[k] for k in make(0.1).order()) >= 2
    assert sum(marked[k] for k in make(0.5, samples=5).order()) >= 3
    assert make(None).order() == make(0.0).order() == EpochSampler(range(50), 0, 20, 1, 0).order()
    one, two = make(0.5), [make(0.5, ranks=2, rank=r) for r in range(2)]
    assert list(one) == [k for pair in zip(*two, strict=True) for k in pair]


def test_few_centres_are_remembered_of_a_large_class():
    full = {"image": torch.zeros(1, 40, 40, 40), "label": torch.ones(1, 40, 40, 40), "classes": ("a",), "patient": "p"}
    (found,) = PatchDataset([full], [5, 5, 5]).foregrounds
    assert 5_000 < len(found.centres) <= 10_000
    assert int(found.centres.max()) > 63_000  # from everywhere


@pytest.mark.parametrize("patch", [(16, 16), (16, 16, 4)])
def test_volumes_without_foreground_are_ordinary(patch):
    dataset = PatchDataset([volume(0, foreground=False), volume(1)], patch, [AFFINE])
    assert all(dataset[k]["label"].sum() == 0 for k in range(4))


@pytest.mark.parametrize("patch", [(16, 12), (16, 12, 4)])
def test_a_sample_is_one_of_seed_epoch_and_index(volumes, patch):
    make = lambda seed=3: PatchDataset(volumes, patch, [AFFINE, FLIP], [NOISE], seed=seed)  # noqa: E731
    first, second = make(), make()
    np.random.seed(1)  # nobody's state matters
    torch.manual_seed(1)
    order = [(e, k) for e in range(2) for k in range(6)]
    ahead, back = [drawn(first, *key) for key in order], [drawn(second, *key) for key in order[::-1]][::-1]
    assert all(map(same, ahead, back))
    assert not same(drawn(first, 0, 2), drawn(first, 1, 2))
    assert not torch.equal(drawn(first, 0, 2)["image"], make(4)[2]["image"])
    assert same(make()[2], drawn(first, 0, 2))


def test_workers_change_nothing(volumes):
    dataset = PatchDataset(volumes, [16, 12], [AFFINE, FLIP], [NOISE], seed=3)
    loaders = [DataLoader(dataset, 4, num_workers=workers, collate_fn=collate) for workers in (0, 2)]
    dataset.set_epoch(4)
    for first, second in zip(*loaders, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["label"], second["label"])
        assert first["patient"] == second["patient"]


def loader_of(dataset, workers, epoch=0, **options):
    sampler = EpochSampler(dataset, 1, None, 1, 0, epoch)
    persistent = {"persistent_workers": True, "num_workers": workers} if workers else {}
    return DataLoader(dataset, 4, sampler=sampler, collate_fn=collate, **persistent, **options)


def equal(first, second):
    return len(first) == len(second) and all(map(same, first, second))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_persistent_workers_draw_each_epoch_as_one_process_does(volumes, method):
    options = [volumes, [16, 12], [AFFINE, FLIP], [NOISE]]
    alone, helped = (PatchDataset(*options, seed=3) for _ in range(2))
    loaders = loader_of(alone, 0), loader_of(helped, 2, multiprocessing_context=method)
    seen = []
    for epoch, limit in ((0, None), (1, 2), (2, None), (0, None), (5, 1)):  # some are cut short, and it goes back
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        seen.append([list(islice(loader, limit)) for loader in loaders])
        assert equal(*seen[-1])
        k = loaders[0].sampler.order()[0]
        by_hand = drawn(PatchDataset(*options, seed=3), epoch, k)
        assert torch.equal(seen[-1][1][0]["image"][0], by_hand["image"])
    assert equal(seen[0][1], seen[3][1])
    assert not equal(seen[0][1][:2], seen[1][1])


def test_loaders_of_several_data_sets_are_in_epochs_of_their_own(volumes):
    helped = [loader_of(PatchDataset(volumes, [16, 12], [AFFINE], seed=seed), 1) for seed in (3, 4)]
    for epochs in ((0, 0), (1, 7)):
        expected = []
        for loader, epoch in zip(helped, epochs, strict=True):
            loader.sampler.set_epoch(epoch)
            alone = PatchDataset(volumes, [16, 12], [AFFINE], seed=loader.dataset.seed)
            expected.append(list(loader_of(alone, 0, epoch)))
        for found, wanted in zip(zip(*helped, strict=True), zip(*expected, strict=True), strict=True):  # in turns
            assert equal(found, wanted)


def test_loaders_of_one_data_set_do_not_keep_each_others_epoch(volumes):
    dataset = PatchDataset(volumes, [16, 12], [AFFINE], seed=3)
    first, second = loader_of(dataset, 2, epoch=3), loader_of(dataset, 0, epoch=1)
    before = list(first)
    assert not equal(before, list(second))
    assert equal(before, list(first))


def test_workers_of_a_resumed_fit_begin_with_its_epoch(volumes):
    """They draw before Lightning says which epoch it is."""
    alone, helped = (PatchDataset(volumes, [16, 12], [AFFINE], seed=3) for _ in range(2))
    told = loader_of(alone, 0)
    told.sampler.set_epoch(3)
    assert equal(list(loader_of(helped, 2, epoch=3)), list(told))


@pytest.mark.parametrize("patch", [(18, 16), (18, 16, 5)])
def test_image_label_and_targets_move_together(volumes, patch):
    """Targets that are a function of the image stay one of it, and so does the label."""
    still, moved = (PatchDataset(volumes, patch, spatial, [], 4) for spatial in ((), [AFFINE, FLIP]))
    for dataset in (still, moved):
        dataset.targets = {
            "logits": [torch.cat([2 * v["image"] + 1, -v["image"]]).half() for v in volumes],
            "more": [3 * v["image"] for v in volumes],
        }
    changed = 0
    for k in range(10):
        sample = drawn(moved, 1, k)
        image = sample["image"]
        assert sample["logits"].dtype == sample["more"].dtype == torch.float32
        assert sample["logits"].shape == (2, *patch)
        torch.testing.assert_close(sample["logits"], torch.cat([2 * image + 1, -image]), atol=5e-3, rtol=0)  # float16
        torch.testing.assert_close(sample["more"], 3 * image, atol=1e-5, rtol=0)
        clear = image.abs() > 0.25  # farther from zero than half a voxel's change
        assert clear.float().mean() > 0.4
        assert ((image > 0) == (sample["label"] == 1))[clear].float().mean() > 0.99
        changed += not torch.equal(image, drawn(still, 1, k)["image"])
    assert changed == 10


def test_intensity_is_of_the_image_alone(volumes):
    plain, noisy = (PatchDataset(volumes, [24, 20], (), intensity) for intensity in ((), [NOISE]))
    for dataset in (plain, noisy):
        dataset.targets = {"t": [v["image"].half() for v in volumes]}
    before, after = plain[3], noisy[3]
    assert torch.equal(before["t"], after["t"])
    assert torch.equal(before["label"], after["label"])
    noise = (after["image"] - before["image"]).std()
    assert 0 < noise < 0.15


def test_samples_are_plain_tensors_that_share_no_memory(volumes):
    for spatial in ((), [AFFINE]):
        sample = PatchDataset(volumes, [24, 20], spatial)[0]
        for name in ("image", "label"):
            assert type(sample[name]) is torch.Tensor
            assert sample[name].is_contiguous()
            sample[name].fill_(9)
        assert volumes[0]["image"].max() < 9
        assert volumes[0]["label"].max() == 1
        assert sample["label"].dtype == torch.uint8


@pytest.mark.parametrize(
    "transform",
    [
        AFFINE,
        FLIP,
        {
            "_target_": "RandZoomd",
            **KEYS,
            "prob": 1.0,
            "min_zoom": 0.8,
            "max_zoom": 1.2,
            "mode": ["bilinear", "nearest"],
        },
        {"_target_": "RandRotated", **KEYS, "prob": 1.0, "range_x": 0.5, "mode": ["bilinear", "nearest"]},
        {"_target_": "Rand2DElasticd", **KEYS, "prob": 1.0, "spacing": (8, 8), "magnitude_range": (0, 2)}
        | {"mode": ["bilinear", "nearest"]},
        {"_target_": "RandGridDistortiond", **KEYS, "prob": 1.0, "mode": ["bilinear", "nearest"]},
    ],
    ids=lambda t: t["_target_"],
)
def test_leaving_out_the_place_in_the_world_changes_no_voxel(volumes, transform, monkeypatch):
    dataset = PatchDataset(volumes, [20, 20], [transform])
    quick = [dataset[k] for k in range(3)]
    assert get_track_meta()
    monkeypatch.setattr("lit_continual.data.random_changes.set_track_meta", lambda track: None)
    assert all(map(same, quick, [dataset[k] for k in range(3)]))


def test_tracking_is_as_before_after_an_error(volumes):
    dataset = PatchDataset(volumes, [20, 20], [{"_target_": "Flipd", "keys": "nope"}])
    with pytest.raises(RuntimeError, match=r"applying transform"):
        dataset[0]
    assert get_track_meta()


@pytest.mark.parametrize(
    ("spatial", "message"),
    [
        ({**AFFINE, "mode": "bilinear"}, "interpolates between label values.*`mode: .bilinear, nearest.`"),
        ({"_target_": "CenterSpatialCropd", **KEYS, "roi_size": (4, 4)}, r"makes the image \(4, 4\) of a patch of"),
        ({"_target_": "CenterSpatialCropd", "keys": "label", "roi_size": (4, 4)}, r"makes the label \(4, 4\)"),
        ({"_target_": "Rotate90d", **KEYS}, r"makes the image \(20, 24\) of a patch of \(24, 20\)"),
    ],
)
def test_augmentation_that_cannot_be_right(volumes, spatial, message):
    with pytest.raises(ValueError, match=message):
        PatchDataset(volumes, [24, 20], [spatial])[0]


def test_unknown_augmentation(volumes):
    with pytest.raises(
        ValueError,
        match=r"There is no `RandAfine` in monai.transforms.* Correct the transform `RandAfine`",
    ):
        PatchDataset(volumes, [20, 20], [{**AFFINE, "_target_": "RandAfine"}])
    with pytest.raises(ValueError, match=r"`RandAffined` has no argument `rotate`"):
        PatchDataset(volumes, [20, 20], [{**AFFINE, "rotate": 1}])


@pytest.mark.parametrize("samples", [None, 24, 7])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_ranks_share_the_batches_of_one_process(ranks, samples):
    data, batch, epoch = range(48), 12, 5

    def batches(sampler, size):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        return [keys[i : i + size] for i in range(0, len(keys), size)]

    alone = batches(EpochSampler(data, 1, samples, 1, 0), batch)
    split = [batches(EpochSampler(data, 1, samples, ranks, r), batch // ranks) for r in range(ranks)]
    assert len({tuple(map(len, x)) for x in split}) == 1  # else a rank would wait for ever
    for b, whole in enumerate(alone):
        together = Counter(key for rank in split for key in rank[b])
        extra = together - Counter(whole)  # fills the last batch where the ranks do not divide the samples
        assert not Counter(whole) - together
        assert extra.total() == (-len(whole) % ranks if b == len(alone) - 1 else 0)
    assert sum(map(len, alone)) == (samples or 48)


def test_epochs_are_shuffled_anew_and_again_the_same():
    def order(seed, epoch):
        sampler = EpochSampler(range(30), seed, None, 1, 0)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 0)) == list(range(30))
    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(s, e)) for s in range(3) for e in range(2)}) >= 5
    assert len(EpochSampler(range(30), 0, 8, 1, 0)) == 8


def test_a_resumed_fit_begins_with_the_order_of_its_epoch():
    told, begun = EpochSampler(range(30), 0, None, 1, 0), EpochSampler(range(30), 0, None, 1, 0, epoch=3)
    told.set_epoch(3)
    assert list(begun) == list(told)
    assert list(ReplaySampler(begun, range(5), 2)) == list(ReplaySampler(told, range(5), 2))


def test_part_of_an_epoch_is_another_part_in_the_next():
    sampler = EpochSampler(range(50), 0, 10, 1, 0)
    seen = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert len(seen) > 45


@pytest.mark.parametrize("cases", [0, 1, 5, 12])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_case_is_evaluated_once(cases, ranks):
    samplers = [WholeSampler(range(cases), ranks, r) for r in range(ranks)]
    assert sorted(k for s in samplers for k in s) == list(range(cases))
    assert [len(s) for s in samplers] == [len(list(s)) for s in samplers]
    if ranks == 1:
        assert list(samplers[0]) == list(SequentialSampler(range(cases)))
