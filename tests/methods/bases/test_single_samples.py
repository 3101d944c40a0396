"""Which samples are measured: of every kind of loader, each once, the same for any number of processes."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, WeightedRandomSampler

from lit_continual.data.samplers import EpochSampler
from lit_continual.methods.bases.importance.single_samples import single_samples


def trainer_of(loader, world=1, rank=0, limit=1.0, mode="max_size_cycle"):
    """The part of a Trainer that is asked."""
    strategy = SimpleNamespace(batch_to_device=lambda batch: batch)
    return SimpleNamespace(
        train_dataloader=loader,
        world_size=world,
        global_rank=rank,
        limit_train_batches=limit,
        fit_loop=SimpleNamespace(_combined_loader=CombinedLoader(loader, mode)),
        num_training_batches=limit,
        precision_plugin=SimpleNamespace(convert_input=lambda batch: batch),
        lightning_module=LightningModule(),
        strategy=strategy,
    )


def drawn(loader, count=None, **options):
    found = list(single_samples(trainer_of(loader, **options), count))
    assert all(len(sample) == 1 for _, sample in found)
    return [(number, int(sample)) for number, sample in found]


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, k):
        return torch.tensor(10 * k)


DATA = Data()
LOADERS = {
    "plain": lambda world, rank: DataLoader(DATA, batch_size=3),
    "shuffled": lambda world, rank: DataLoader(DATA, batch_size=2, shuffle=True, drop_last=True),
    "distributed": lambda world, rank: DataLoader(DATA, 3, sampler=DistributedSampler(DATA, world, rank)),
    "epochs": lambda world, rank: DataLoader(DATA, 3, sampler=EpochSampler(DATA, 0, 5, world, rank)),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_sample_once_with_its_number(kind, world):
    parts = [drawn(LOADERS[kind](world, rank), world=world, rank=rank) for rank in range(world)]
    assert sorted(chain(*parts)) == [(k, 10 * k) for k in range(7)]
    assert parts[0] == [(k, 10 * k) for k in range(0, 7, world)]


@pytest.mark.parametrize("world", [1, 2])
def test_a_count_is_a_choice_that_is_the_same_each_time(world):
    parts = [drawn(LOADERS["shuffled"](world, rank), 5, world=world, rank=rank) for rank in range(world)]
    whole = drawn(LOADERS["plain"](1, 0), 5)
    assert sorted(chain(*parts)) == whole
    assert len({value for _, value in whole}) == 5
    assert drawn(LOADERS["plain"](1, 0), 50) == [(k, 10 * k) for k in range(7)]


def test_a_limit_of_the_trainer_holds():
    assert drawn(LOADERS["plain"](1, 0), limit=2) == [(k, 10 * k) for k in range(6)]
    assert drawn(LOADERS["plain"](1, 0), limit=1) == [(k, 10 * k) for k in range(3)]  # as under `fast_dev_run`


def test_a_sampler_of_the_users_own_is_asked():
    torch.manual_seed(0)
    weighted = WeightedRandomSampler([0, 0, 1, 0, 0, 0, 0], 4)
    assert drawn(DataLoader(Data(), batch_size=3, sampler=weighted)) == [(k, 20) for k in range(4)]


def test_batches_that_are_made_elsewhere_are_taken_apart():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(Data()[k] for k in range(5))

    assert drawn(DataLoader(Stream(), batch_size=2)) == [(k, 10 * k) for k in range(5)]
    assert drawn(DataLoader(Stream(), batch_size=2), 3) == [(k, 10 * k) for k in range(3)]
    assert drawn(DataLoader(Stream(), batch_size=2), limit=2) == [(k, 10 * k) for k in range(4)]


@pytest.mark.parametrize(("mode", "count"), [("min_size", 4), ("max_size_cycle", 7)])
def test_several_loaders_are_combined_as_in_the_fit(mode, count):
    loaders = [DataLoader(DATA, batch_size=1), DataLoader(torch.arange(4), batch_size=1)]
    assert len(list(single_samples(trainer_of(loaders, mode=mode)))) == count


def test_exemplars_are_left_out():
    samples = [{"x": torch.tensor(k), "origin": ["new", "exemplar"][k % 3 == 0]} for k in range(7)]
    for loader in (DataLoader(samples, batch_size=3), DataLoader([samples], batch_size=None, collate_fn=merged)):
        found = [int(sample["x"]) for _, sample in single_samples(trainer_of(loader))]
        assert found == [1, 2, 4, 5]


def merged(samples):
    return torch.utils.data.default_collate(samples)
