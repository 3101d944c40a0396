"""Loader whose batches are patients, each a list of tasks for meta-learning."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, default_collate

from lit_continual.data.samplers import pass_on
from lit_continual.methods.meta.patient_tasks import Episode, patient_tasks


class PatientEpisodes:
    """Iterate over patients; each is one meta-batch, a list of pairs of batches ``(D, D')``.

    Slices are split into good and bad tasks by the Dice of the current network, see :func:`patient_tasks`. With
    ``order="active"`` patients come in order of their mean Dice, worst first, and so do the slices in a group; with
    ``"passive"`` both are permuted anew in each epoch by ``seed``. **Re-ranking**: Dice is computed at the start of
    an epoch, of all slices, every ``rerank_every`` epochs; in between, the order stays and the next pieces of it
    are drawn. It does not follow the weights within an epoch.

    An epoch has as many meta-batches as there are patients, rounded up to a multiple of the processes. The place of
    a patient that gives no task (one slice, or no foreground anywhere) is taken by the others, from the first one on.
    Each process gets other patients and as many. Dice is computed in the first process and sent to the others, so
    that all agree on the order. Lightning resumes it within an epoch, with the Dice of that epoch's start.

    Args:
        dataset: Any dataset of slices by index; told the epoch, if it has a ``set_epoch``.
        patients: The patient of each slice, as long as the dataset.
        scores: Gets a list of slice indices and returns their current Dice, nan where it is undefined. Called in the
            main process; it must evaluate without gradients, in eval mode, and leave the network as it was.
        order: ``"active"`` or ``"passive"``.
        threshold: Least Dice of a good slice.
        tasks: Tasks drawn from each group of a patient, if it has enough slices.
        shots: Slices in ``D`` and in ``D'``.
        rerank_every: Number of epochs after which Dice is computed again; 0 keeps the first.
        seed: Seed of the permutations; the number of the epoch is added.
        collate: Makes a batch of a list of items of ``dataset``.
        num_workers: Processes that load slices.

    Raises:
        ValueError: If an argument is out of range, ``scores`` returns another number of values, or no patient gives
            a task.

    References:
        Han et al. Learning to Learn Unlearned Feature for Brain Tumor Segmentation. 2018, Algorithm 1 and Figure 1.

    Example:
        >>> dice = [0.9, 0.7, 0.2, 0.1, 0.6, 0.8]
        >>> loader = PatientEpisodes(range(6), "aaaabb", lambda slices: [dice[i] for i in slices])
        >>> loader.episodes()
        [[([3], [2]), ([1], [0])], [([4], [5])]]
        >>> next(iter(loader))
        [(tensor([3]), tensor([2])), (tensor([1]), tensor([0]))]
    """

    def __init__(
        self,
        dataset: Dataset[Any] | Sequence[Any],
        patients: Sequence[Hashable],
        scores: Callable[[list[int]], Sequence[float]],
        order: str = "active",
        threshold: float = 0.5,
        tasks: int = 1,
        shots: int = 1,
        rerank_every: int = 1,
        seed: int = 0,
        collate: Callable[[list[Any]], Any] = default_collate,
        num_workers: int = 0,
    ) -> None:
        if (size := len(dataset)) != len(patients):  # type: ignore[arg-type]  # a map-style dataset has a length
            raise ValueError(f"`patients` must name the patient of each of the {size} slices, got {len(patients)}.")
        if order not in ("active", "passive"):
            raise ValueError(f"`order` must be 'active' or 'passive', got {order!r}.")
        if tasks < 1 or shots < 1 or rerank_every < 0:
            raise ValueError(
                f"`tasks` and `shots` must be at least 1 and `rerank_every` at least 0, got {tasks}, {shots} and"
                f" {rerank_every}."
            )
        self.dataset, self.collate = dataset, collate
        self.slices: dict[Hashable, list[int]] = {}
        for index, patient in enumerate(patients):
            self.slices.setdefault(patient, []).append(index)
        self.scores, self.order, self.threshold, self.tasks, self.shots = scores, order, threshold, tasks, shots
        self.rerank_every, self.seed, self.num_workers = rerank_every, seed, num_workers
        self.epoch = self.position = self.ranked_in = 0
        self.dice: torch.Tensor | None = None
        self.resumed = False

    @property
    def sampler(self) -> "PatientEpisodes":
        """What Lightning tells the number of the epoch, through ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, as for a distributed sampler; Lightning does."""
        self.epoch = epoch
        pass_on(self.dataset, epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.slices) / _world()[1])

    def __iter__(self) -> Iterator[list[tuple[Any, Any]]]:
        if not self.resumed or self.position >= len(self):
            self.position = 0
            self._rank_slices()
        self.resumed = False
        pass_on(self.dataset, self.epoch)  # also where a fit is resumed
        rank, world = _world()
        plan = self.episodes()
        places = range(self.position * world + rank, len(self) * world, world)
        episodes: Sequence[Any] = [plan[place % len(plan)] for place in places]
        loader: DataLoader[Any] = DataLoader(
            _Episodes(self.dataset, self.collate),
            batch_size=None,
            sampler=episodes,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
        )
        for batch in loader:
            self.position += 1
            yield batch

    def episodes(self) -> list[Episode]:
        """Return the tasks of this epoch in their order, as slice indices, patients without a task left out."""
        if self.dice is None:
            self._rank_slices()
        assert self.dice is not None  # ranked above
        dice = self.dice.tolist()
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        turn, planned = self.epoch - self.ranked_in, dict[Hashable, Episode]()
        for patient in self._ordered_patients(generator):
            own = {index: dice[index] for index in self.slices[patient]}
            options = (self.threshold, self.order, self.tasks, self.shots, turn, generator)
            if episode := patient_tasks(own, *options):
                planned[patient] = episode
        if not planned:
            raise ValueError(
                "No patient has two slices with a Dice, so there is no task: give patients with at least two slices"
                " that have foreground."
            )
        return [*planned.values()]

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on after the last batch: the Dice this epoch was ranked by, and the place."""
        return {"epoch": self.epoch, "position": self.position, "ranked_in": self.ranked_in, "dice": self.dice}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.epoch, self.position, self.resumed = state["epoch"], state["position"], True
        self.ranked_in, self.dice = state["ranked_in"], state["dice"]

    def _ordered_patients(self, generator: torch.Generator) -> list[Hashable]:
        patients = list(self.slices)
        if self.order == "passive":
            return [patients[place] for place in torch.randperm(len(patients), generator=generator).tolist()]
        assert self.dice is not None  # set by the caller
        # A patient without a Dice gives no task, so that its place among the others, the last, does not matter.
        means = {patient: self.dice[own].nanmean().nan_to_num(math.inf).item() for patient, own in self.slices.items()}
        return sorted(patients, key=lambda patient: means[patient])

    def _rank_slices(self) -> None:
        due = self.rerank_every > 0 and self.epoch - self.ranked_in >= self.rerank_every
        if self.dice is not None and not due:
            return
        size = sum(len(own) for own in self.slices.values())
        values = [[float(value) for value in self.scores(list(range(size)))] if _world()[0] == 0 else []]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(values)
        if len(values[0]) != size:
            raise ValueError(f"`scores` must return one Dice for each of the {size} slices, got {len(values[0])}.")
        self.dice, self.ranked_in = torch.tensor(values[0], dtype=torch.float64), self.epoch
        lonely = [name for name, own in self.slices.items() if self.dice[own].isfinite().sum() < 2]
        if lonely:
            rank_zero_warn(f"Patients {lonely} have fewer than two slices with a Dice and give no task.")


class _Episodes(Dataset[list[tuple[Any, Any]]]):
    """The batches of an episode, in place of its slice indices."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, episode: Any) -> list[tuple[Any, Any]]:
        def batch(slices: list[int]) -> Any:
            return self.collate([self.dataset[index] for index in slices])

        return [(batch(inner), batch(outer)) for inner, outer in episode]


def _as_it_is(batch: Any) -> Any:
    return batch


def _world() -> tuple[int, int]:
    ready = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if ready else (0, 1)
