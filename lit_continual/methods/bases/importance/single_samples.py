"""The training samples of a fit one by one, each as a batch of its own."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, RandomSampler
from torch.utils.data import SequentialSampler as Sequential

from lit_continual.methods.bases.fit.batch_rows import count_rows, take_rows
from lit_continual.methods.bases.fit.forward_calls import tensors
from lit_continual.methods.bases.fit.training_batches import batches_of_epoch, on_device
from lit_continual.methods.bases.old_network.logits import origins


def single_samples(trainer: Trainer, count: int | None = None) -> Iterator[tuple[int, Any]]:
    """Yield the training samples of this process, each as a batch of one on its device, with its number in the data.

    Under a sampler of torch's, Lightning's or this package's, the samples of all processes together are each one of
    the data set once, in its order, whatever the batch size, ``drop_last`` and the number of processes; of another
    sampler, and of a loader that makes batches itself, they are what it draws in an epoch. Exemplars of earlier fits
    are left out. A limit of ``limit_train_batches`` holds.

    Args:
        trainer: The trainer of the fit, whose data are set up.
        count: How many samples of all processes together; of a data set with a length, a random choice that is the same
            each time. ``None`` for all.
    """
    world, rank = trainer.world_size, trainer.global_rank
    loader: Any = trainer.train_dataloader
    given = trainer.limit_train_batches  # 1 is one batch, and 1.0 all of them
    limit = None if isinstance(given, float) and given == 1.0 else int(trainer.num_training_batches)
    if loads_singly(loader):
        singles: Any = DataLoader(
            loader.dataset,
            batch_size=1,
            sampler=_indices(loader, world, rank, count)[: limit and limit * (loader.batch_size or 1)],
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )
    else:
        singles = (one for batch in islice(batches_of_epoch(trainer), limit) for one in _apart(batch))
    mine = None if count is None else len(range(rank, count, world))
    new = (sample for sample in singles if "exemplar" not in origins(sample))
    for place, sample in enumerate(islice(new, mine)):
        yield rank + world * place, on_device(trainer, sample)


def loads_singly(loader: Any) -> bool:
    """Whether a loader draws samples from a data set that has a length, and so can draw them one by one."""
    known = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return known and loader.batch_sampler is not None


def first_sample(trainer: Trainer, batch: Any, count: int | None) -> Any:
    """Return the first sample of a batch that is no exemplar, ``None`` where there is none.

    Raises:
        MisconfigurationException: If :func:`single_samples` could not tell samples of such batches apart, or would not
            come to an end.
    """
    rows = [row for row, origin in enumerate(origins(batch) or [""] * count_rows(batch)) if origin != "exemplar"]
    first = take_rows(batch, rows[:1]) if count_rows(batch) else batch
    if not loads_singly(trainer.train_dataloader):
        if any(len(tensor) > 1 for tensor in tensors(first) if tensor.ndim) or not count_rows(batch):
            raise MisconfigurationException(
                f"Samples are needed one by one, and nothing tells those of a batch apart that is a"
                f" {type(batch).__name__} and has not one part for each sample. Give the Trainer a DataLoader of a data"
                " set with a length, or batches of tensors that have the samples on their first axis."
            )
        if count is None and trainer.num_training_batches == float("inf") and trainer.max_steps != -1:
            raise MisconfigurationException(
                "The training data have no length and may have no end. Say by `samples` how many of them to measure."
            )
    return first if rows or not count_rows(batch) else None


def _apart(batch: Any) -> Iterator[Any]:
    size = count_rows(batch)
    yield from (take_rows(batch, [row]) for row in range(size)) if size > 1 else [batch]


def _indices(loader: DataLoader[Any], world: int, rank: int, count: int | None) -> list[Any]:
    """The indices of this process: each once of a known sampler, else those that the loader's own draws."""
    sampler, data = loader.sampler, loader.dataset
    plain = type(loader.batch_sampler) is BatchSampler and isinstance(sampler, (RandomSampler, Sequential))
    divided = isinstance(sampler, DistributedSampler) and sampler.dataset is data
    if not plain and not divided:
        return list(chain.from_iterable(loader.batch_sampler or ()))
    size = len(data)  # type: ignore[arg-type]
    if count is None or count >= size:
        return list(range(rank, size, world))
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count]
    return [int(index) for index in chosen.sort().values][rank::world]
