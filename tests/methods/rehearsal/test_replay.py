from collections import Counter

import pytest
import torch

from lit_continual.data import EpochSampler, ReplayDataset, ReplaySampler


def sampler(new=20, exemplars=6, batch_size=4, world=1, rank=0, epoch=0, samples=None, **mixing):
    made = ReplaySampler(EpochSampler(range(new), 3, samples, world, rank), range(exemplars), batch_size, **mixing)
    made.set_epoch(epoch)
    return made


def of_ranks(world, **options):
    """The batches of all ranks, each as one set of keys."""
    parts = [list(sampler(world=world, rank=rank, **options)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert all(len({len(batch) for batch in batches}) == 1 for batches in zip(*parts, strict=True))
    return [Counter(key for batch in batches for key in batch) for batches in zip(*parts, strict=True)]


def test_pure_batches_have_one_origin_and_draw_everything_once():
    batches = list(sampler())
    assert [len({k >= 20 for k in batch}) for batch in batches] == [1] * 7
    assert Counter(k for batch in batches for k in batch) == Counter(range(26))
    assert sorted(len(batch) for batch in batches) == [2, 4, 4, 4, 4, 4, 4]
    assert len(sampler()) == 7


def test_exemplar_batches_lie_anywhere_in_an_epoch():
    places = {i for epoch in range(20) for i, batch in enumerate(sampler(epoch=epoch)) if batch[0] >= 20}
    assert places == set(range(7))


@pytest.mark.parametrize(("share", "count"), [(0.5, 5), (0.2, 1), (0.01, 1), (0.75, 15)])
def test_pure_share_is_that_of_the_batches(share, count):
    batches = list(sampler(share=share))
    old = [batch for batch in batches if batch[0] >= 20]
    assert (len(old), len(batches) - len(old)) == (count, 5)
    assert all(len(batch) == 4 for batch in old)
    drawn = Counter(k for batch in old for k in batch)
    assert max(drawn.values()) - min([*drawn.values(), *[0] * (6 - len(drawn))]) <= 1


@pytest.mark.parametrize(("share", "old"), [(None, 1), (0.5, 2), (0.01, 1), (0.99, 3)])
def test_mixed_batches_hold_their_share(share, old):
    batches = list(sampler(batches="mixed", share=share))
    assert all(sum(k >= 20 for k in batch) == old for batch in batches)
    assert all(len(batch) == 4 for batch in batches[:-1])
    assert Counter(k for batch in batches for k in batch if k < 20) == Counter(range(20))


def test_seed_and_epoch_decide():
    assert list(sampler(epoch=2)) == list(sampler(epoch=2)) != list(sampler(epoch=3))
    assert all(len(sampler(epoch=epoch)) == len(list(sampler(epoch=epoch))) == 7 for epoch in range(4))


@pytest.mark.parametrize("options", [{}, {"share": 0.4}, {"batches": "mixed"}, {"batches": "mixed", "share": 0.5}])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_draw_the_batches_of_one_process(world, options):
    one = [Counter(batch) for batch in sampler(batch_size=8, exemplars=8, **options)]
    assert of_ranks(world, batch_size=8 // world, exemplars=8, **options) == one


@pytest.mark.parametrize("options", [{}, {"batches": "mixed"}])
def test_ranks_that_do_not_divide_the_samples_have_as_many_batches(options):
    batches = of_ranks(3, new=20, exemplars=5, **options)
    assert {k for batch in batches for k in batch} == set(range(25))


def test_as_many_new_samples_as_without_exemplars():
    assert sum(k < 20 for batch in sampler(samples=12) for k in batch) == 12


def test_batches_of_one_sample_cannot_be_mixed():
    with pytest.raises(ValueError, match=r"Batches of one sample cannot be mixed.*`batches: pure`"):
        sampler(batch_size=1, batches="mixed")


def test_samples_say_where_they_come_from():
    samples, exemplars = [{"key": 0}, {"key": 1}], [{"key": "old"}]
    assert ReplayDataset(samples, exemplars)[[1, 2]] == [
        {"key": 1, "origin": "new"},
        {"key": "old", "origin": "exemplar"},
    ]


def test_the_sampler_says_the_epoch_to_new_samples_and_exemplars():
    class Listening(list):
        def set_epoch(self, epoch):
            self.epoch = epoch

    new, old = Listening(range(4)), Listening(range(2))
    list(ReplaySampler(EpochSampler(new, 0, None, 1, 0, epoch=3), old, 2))
    assert (new.epoch, old.epoch) == (3, 3)


def test_samples_that_cannot_say_where_they_come_from_are_named():
    with pytest.raises(ValueError, match=r"cannot be mixed among samples that are tuples, .* or drop the memory"):
        ReplayDataset([(torch.zeros(1), 0)], [{"image": torch.zeros(1)}])[[0]]
