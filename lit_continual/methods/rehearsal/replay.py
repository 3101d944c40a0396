"""New samples and exemplars in the batches of one epoch."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler
from typing_extensions import Self, override

from lit_continual.data.samplers import EpochSampler, pass_on

#: What a user can do where exemplars are no samples of the data.
LIKE_NEW = "Give a memory of images like the new ones, or drop it."


class ReplayDataset(Dataset[list[dict[str, Any]]]):
    """Whole batches of new samples and, behind them in the count, exemplars; each says its ``origin``.

    Args:
        new: The new samples, mappings.
        exemplars: The exemplars, with the same keys.
    """

    def __init__(self, new: Dataset[Any], exemplars: Sequence[Any] | Dataset[Any]) -> None:
        self.new, self.exemplars = new, exemplars
        self.size: int = len(new)  # type: ignore[arg-type]  # a map-style data set has a length

    @override
    def __getitem__(self, batch: Sequence[int]) -> list[dict[str, Any]]:
        return [self._sample(k) for k in batch]

    def _sample(self, k: int) -> dict[str, Any]:
        if k < self.size:
            if not isinstance(new := self.new[k], Mapping):
                raise ValueError(
                    f"Exemplars cannot be mixed among samples that are {type(new).__name__}s, which cannot say where"
                    " they come from. Let the data set return mappings with a tensor `image`, or drop the memory."
                )
            return {**new, "origin": "new"}
        return {**self.exemplars[k - self.size], "origin": "exemplar"}

    def checked(self, memory: object) -> Self:
        """Return this, if a new sample and an exemplar can stand in one batch; see :func:`require_alike`."""
        if self.size:
            with isolate_rng():
                require_alike(self[[0, self.size]], memory)
        return self


def require_alike(samples: Sequence[Mapping[str, Any]], memory: object) -> None:
    """Check that images and labels can stand in one batch.

    Args:
        samples: Exemplars; the first, which all are held against, may be a new sample.
        memory: Where the exemplars are from, for the error.

    Raises:
        ValueError: If one lacks what the first has, or has other channels or axes.
    """
    for name in ("image", "label") if samples else ():
        first = samples[0].get(name)
        if not isinstance(first, Tensor) or not first.ndim:
            continue
        for one in samples[1:]:
            if not isinstance(value := one.get(name), Tensor):
                raise ValueError(f"Not all exemplars in {memory} have a tensor `{name}`. {LIKE_NEW}")
            if (value.ndim, len(value)) != (first.ndim, len(first)):
                sizes = (" x ".join(map(str, found.shape)) or "1" for found in (value, first))
                raise ValueError(
                    f"An exemplar in {memory} has a `{name}` of {next(sizes)}, which cannot be in a batch with one of"
                    f" {next(sizes)}. {LIKE_NEW}"
                )


class ReplaySampler(DistributedSampler[Any]):
    """Yield this rank's batches of indices, drawn by seed and epoch: those of all ranks together are the same batches.

    Args:
        new: The sampler of the new samples; its ranks and seed are taken.
        exemplars: The exemplars, counted behind the new samples; given the epoch, if they have a ``set_epoch``.
        batch_size: Samples of a batch, on each rank.
        batches: ``"pure"`` gives each batch one origin, ``"mixed"`` puts exemplars in every batch.
        share: Of exemplars among all samples of an epoch, above 0 and below 1; ``None`` draws each about once.

    Raises:
        ValueError: If batches of one sample are to be mixed.

    Example:
        >>> sampler = ReplaySampler(EpochSampler(range(4), 0, None, 1, 0), range(2), batch_size=2)
        >>> [["exemplar" if k > 3 else "new" for k in batch] for batch in sampler]
        [['exemplar', 'exemplar'], ['new', 'new'], ['new', 'new']]
    """

    def __init__(
        self, new: EpochSampler, exemplars: Sized, batch_size: int, batches: str = "pure", share: float | None = None
    ) -> None:
        super().__init__(new.dataset, new.num_replicas, new.rank, shuffle=True, seed=new.seed)
        self.new, self.exemplars, self.size = new, exemplars, batch_size * new.num_replicas
        self.epoch = new.epoch
        self.mixed, self.share = batches == "mixed", share
        if self.mixed and self.size < 2:
            raise ValueError("Batches of one sample cannot be mixed. Use `batches: pure` or a larger batch size.")

    def __len__(self) -> int:
        return len(self.batches())

    @override
    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.new.set_epoch(epoch)
        pass_on(self.exemplars, epoch)

    @override
    def __iter__(self) -> Iterator[list[int]]:
        self.set_epoch(self.epoch)  # which another loader of the data may have changed
        return iter([batch[self.rank :: self.num_replicas] for batch in self.batches()])

    def batches(self) -> list[list[int]]:
        """The batches of this epoch, of all ranks together; the size of each is a multiple of their number."""
        new, draw = self.new.order(), self._endless(np.random.default_rng([self.seed, self.epoch, 1]))
        if self.mixed:
            return self._mix(new, draw)
        pure = _chunks(new, self.size)
        if self.share is None:
            pure += _chunks(draw(-(-len(self.exemplars) // self.num_replicas) * self.num_replicas), self.size)
        else:
            count = max(round(self.share / (1 - self.share) * len(pure)), 1)
            pure += _chunks(draw(count * self.size), self.size)
        return [pure[i] for i in np.random.default_rng([self.seed, self.epoch, 2]).permutation(len(pure))]

    def _mix(self, new: list[int], draw: Callable[[int], list[int]]) -> list[list[int]]:
        share = len(self.exemplars) / (len(self.exemplars) + len(new)) if self.share is None else self.share
        old = min(max(round(share * self.size), 1), self.size - 1)
        parts = _chunks(new, self.size - old)
        return [part + draw(old + -(len(part) + old) % self.num_replicas) for part in parts]

    def _endless(self, random: np.random.Generator) -> Callable[[int], list[int]]:
        """Return what draws exemplars, each as often as any other, give or take one."""
        left: list[int] = []

        def draw(count: int) -> list[int]:
            while len(left) < count:
                left.extend((len(self.dataset) + random.permutation(len(self.exemplars))).tolist())  # type: ignore[arg-type]
            drawn, left[:] = left[:count], left[count:]
            return drawn

        return draw


def _chunks(order: list[int], size: int) -> list[list[int]]:
    return [order[i : i + size] for i in range(0, len(order), size)]
