from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from lit_continual.data.samplers import EpochSampler, whole_loader
from lit_continual.modules import Denoiser, Segmenter

NETWORK = {"class_path": "UNet", "init_args": {"spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}}


class Volumes:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": torch.full((1, 2, 2, 2), float(index)), "patient": f"case_{index}"}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_each_volume_is_of_one_rank_and_no_rank_is_without_a_batch(count, ranks):
    loaders = [
        whole_loader(Volumes(count), SimpleNamespace(world_size=ranks, global_rank=rank)) for rank in range(ranks)
    ]
    assert min(map(len, loaders)) > 0
    batches = [batch for loader in loaders for batch in loader]
    assert sorted(b["patient"][0] for b in batches if "padding" not in b) == [f"case_{i}" for i in range(count)]
    assert [b["padding"] for b in batches if "padding" in b] == [[True]] * max(0, ranks - count)


def test_no_volumes_need_no_loader():
    assert whole_loader(Volumes(0), SimpleNamespace(world_size=2, global_rank=1)) == []


def test_a_volume_of_another_rank_is_neither_inferred_nor_scored(monkeypatch):
    segmenter, denoiser = Segmenter(NETWORK, features=4, heads=[["ball"]]), Denoiser()
    monkeypatch.setattr(segmenter, "infer", None)
    monkeypatch.setattr(denoiser, "infer", None)
    denoiser.studies = object()
    batch = {"image": torch.zeros(1, 1, 4, 4, 1), "padding": [True]}
    assert segmenter.test_step(batch, 0) is segmenter.validation_step(batch, 0) is None
    assert denoiser.test_step(batch, 0) is None


@pytest.mark.parametrize(
    ("share", "classes", "samples"),
    [(1.0, 4, 6), (0.8, 10, 8), (0.5, 20, 12), (0.5, 3, 10), (0.25, 2, 40), (1.0, 7, 7)],
)
@pytest.mark.parametrize("ranks", [1, 3])
def test_many_small_shares_are_theirs_over_the_epochs(share, classes, samples, ranks):
    """Sample 0 is preferred, and sample k is of the k-th part."""
    parts = [(share / classes, [k]) for k in range(1, classes + 1)]
    size, seen, epochs = 50, Counter(), 200
    sampler = EpochSampler(
        range(size), 3, samples, ranks, 0, 0, 1.0, lambda: [k == 0 for k in range(size)], lambda: parts
    )
    total = sampler.num_samples * ranks
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn = Counter(sampler.order())
        assert sum(drawn.values()) == total
        assert abs(sum(drawn[k] for k in range(1, classes + 1)) - share * total) < 1
        assert drawn[0] == total - sum(drawn[k] for k in range(1, classes + 1))
        seen.update(drawn)
    for k in range(1, classes + 1):
        assert abs(seen[k] / epochs - share * total / classes) < 0.15


def test_more_samples_than_there_are_are_not_promised_in_silence():
    with pytest.warns(
        UserWarning, match="`samples_per_epoch` is 8, and there are 7 samples, of which an epoch has all"
    ):
        assert len(EpochSampler(range(7), 0, 8, 1, 0)) == 7
    assert len(EpochSampler(range(7), 0, 7, 1, 0)) == 7  # of which nothing is said
