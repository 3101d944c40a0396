"""Which samples make an epoch, in which order, and on which rank."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from typing_extensions import override

from lit_continual.data.batch import collate


def place_in_fit(trainer: Trainer | None) -> tuple[int, int, int]:
    """Number of ranks, this one, and the epoch that a fit begins with, which is not the first when it is resumed.

    When the loaders are made, ``trainer.current_epoch`` does not count the epoch that ended with the checkpoint yet.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current if trainer is not None else None
    return (*ranks(trainer), 0 if progress is None else progress.processed)


def whole_loader(volumes: Any, trainer: Trainer | None, batch_size: int = 1) -> Any:
    """Make the loader of an evaluation, whose volumes are divided among the ranks; no loader for no volumes.

    A rank that gets none goes through the first with ``padding``: DDP sends buffers around where a rank first calls the
    network, and waits for those that never do.
    """
    if not len(volumes):
        return []
    sampler = WholeSampler(volumes, *ranks(trainer))
    if not len(sampler):
        return DataLoader(_Padding(volumes), collate_fn=collate)
    return DataLoader(volumes, batch_size=batch_size, sampler=sampler, collate_fn=collate)


class _Padding(Dataset[Any]):
    """The first of some volumes, which another rank evaluates."""

    def __init__(self, volumes: Any) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        return 1

    @override
    def __getitem__(self, index: int) -> Any:
        return {**self.volumes[index], "padding": True}


def ranks(trainer: Trainer | None) -> tuple[int, int]:
    """How many there are, and which this one is."""
    return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)


def pass_on(dataset: Any, epoch: int) -> None:
    """Say the epoch to a data set, if it listens."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)


class EpochSampler(DistributedSampler[Any]):
    """Shuffle by seed and epoch, divide among the ranks, and pass the epoch on to the data set.

    With the same global batch, the batches of any number of ranks hold the same samples. The ``set_epoch`` of the data
    set, if it has one, is called before an index of the epoch is drawn.

    Args:
        dataset: What is sampled from.
        seed: Seed of the order.
        samples: How many of the shuffled samples make an epoch; ``None`` for all.
        num_replicas: Number of ranks.
        rank: This one.
        epoch: The epoch to begin with. When a fit is resumed, worker processes draw the first samples before Lightning
            says which epoch it is.
        share: Least share of an epoch that is drawn from the ``preferred``, again where they are too few.
        preferred: Which samples those are; asked for if there is a share.
        parts: Shares of the preferred that are of some samples instead, and which; asked for in each epoch.
    """

    def __init__(
        self,
        dataset: Any,
        seed: int,
        samples: int | None,
        num_replicas: int,
        rank: int,
        epoch: int = 0,
        share: float | None = None,
        preferred: Callable[[], Sequence[bool]] = list,
        parts: Callable[[], Sequence[tuple[float, Sequence[int]]]] = list,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        self.epoch, self.share, self.parts = epoch, share, parts
        self.preferred = np.array(preferred() if share else [], dtype=bool)
        total = min(samples or len(dataset), len(dataset))
        if samples is not None and samples > total:
            rank_zero_warn(
                f"`samples_per_epoch` is {samples}, and there are {total} samples, of which an epoch has all."
            )
        self.num_samples = -(-total // num_replicas)

    @override
    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        pass_on(self.dataset, epoch)

    @override
    def __iter__(self) -> Iterator[int]:
        pass_on(self.dataset, self.epoch)  # which another loader of the data set may have changed
        return iter(self.order()[self.rank :: self.num_replicas])

    def order(self) -> list[int]:
        """The samples of this epoch, of all ranks together."""
        size = len(self.dataset)  # type: ignore[arg-type]
        random = np.random.default_rng([self.seed, self.epoch])
        order, total = random.permutation(size), self.num_samples * self.num_replicas
        if self.share and len(first := self._first(order, ceil(self.share * total), random)):
            order = random.permutation([*first, *order[~np.isin(order, first)]][:total])
        return [int(k) for k in np.resize(order, total)]

    def _first(self, order: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
        """The samples that the share asks for, again where they are too few."""
        parts = [(share, order[np.isin(order, some)]) for share, some in self.parts() if len(some)]
        # Rounded one by one, many small shares would be nothing each, or more than there is; a start by chance gives
        # each part its share in the mean over the epochs, and all of them together theirs in each.
        ends = np.cumsum([0.0, *(share for share, _ in parts)]) * count + (random.random() if parts else 0.0)
        counts = np.diff(np.minimum(np.floor(ends), count)).astype(int)
        sources = [*zip(counts, (some for _, some in parts), strict=True)]
        sources.append((count - int(counts.sum()), order[self.preferred[order]]))
        return np.concatenate([np.resize(some, n) for n, some in sources if len(some)] or [order[:0]])


class WholeSampler(DistributedSampler[Any]):
    """Divide cases among the ranks in their order, none twice, whatever their number.

    Args:
        dataset: What is sampled from.
        num_replicas: Number of ranks.
        rank: This one.
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        self.num_samples = len(range(rank, len(dataset), num_replicas))

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]
