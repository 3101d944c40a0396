"""Patients as meta-batches: lists of tasks, each of slices that the network does well on, or that it does not."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, default_collate

from lit_continual.data.samplers import pass_on

Slices = list[int]
Episode = list[tuple[Slices, Slices]]


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
        dataset: Any dataset of slices by index; given the epoch, if it has a ``set_epoch``.
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
        pin_memory: Put batches into page-locked memory.

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
        pin_memory: bool = False,
    ) -> None:
        data: Any = dataset
        self.dataset, self.size = data, len(data)
        if self.size != len(patients):
            raise ValueError(
                f"`patients` must name the patient of each of the {self.size} slices, got {len(patients)}."
            )
        if order not in ("active", "passive"):
            raise ValueError(f"`order` must be 'active' or 'passive', got {order!r}.")
        if tasks < 1 or shots < 1 or rerank_every < 0:
            raise ValueError(
                f"`tasks` and `shots` must be at least 1 and `rerank_every` at least 0, got {tasks}, {shots} and"
                f" {rerank_every}."
            )
        self.collate, self.num_workers, self.pin_memory, self.seed = collate, num_workers, pin_memory, seed
        self.slices: dict[Hashable, Slices] = {}
        for index, patient in enumerate(patients):
            self.slices.setdefault(patient, []).append(index)
        self.scores, self.order, self.threshold, self.tasks, self.shots = scores, order, threshold, tasks, shots
        self.rerank_every = rerank_every
        self.epoch = self.position = self.ranked_in = 0
        self.dice: torch.Tensor | None = None
        self.resumed = False

    @property
    def sampler(self) -> "PatientEpisodes":
        """The sampler to which Lightning gives the number of the epoch, through ``set_epoch``."""
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
        episodes = [plan[place % len(plan)] for place in places]
        parts = [slices for episode in episodes for task in episode for slices in task]
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=parts,
            num_workers=self.num_workers,
            collate_fn=self.collate,
            pin_memory=self.pin_memory,
        )
        batches = iter(loader)
        for episode in episodes:
            meta_batch = [(next(batches), next(batches)) for _ in episode]
            self.position += 1
            yield meta_batch

    def episodes(self) -> list[Episode]:
        """Return the tasks of this epoch in their order, as slice indices, patients without a task left out."""
        dice = self._rank_slices() if self.dice is None else self.dice
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        patients = list(self.slices)
        if self.order == "active":  # where one without a Dice stands does not matter: it gives no task
            patients.sort(key=lambda patient: dice[self.slices[patient]].nanmean().nan_to_num(math.inf).item())
        else:
            patients = [patients[place] for place in torch.randperm(len(patients), generator=generator).tolist()]
        planned = []
        for patient in patients:
            own = {index: dice[index].item() for index in self.slices[patient]}
            turn = self.epoch - self.ranked_in
            planned.append(patient_tasks(own, self.threshold, self.order, self.tasks, self.shots, turn, generator))
        if not any(planned):
            raise ValueError(
                "No patient has two slices with a Dice, so there is no task: give patients with at least two slices"
                " that have foreground."
            )
        return [episode for episode in planned if episode]

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on after the last batch: the Dice this epoch was ranked by, and the place."""
        return {"epoch": self.epoch, "position": self.position, "ranked_in": self.ranked_in, "dice": self.dice}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.epoch, self.position, self.resumed = state["epoch"], state["position"], True
        self.ranked_in, self.dice = state["ranked_in"], state["dice"]

    def _rank_slices(self) -> torch.Tensor:
        """Return the Dice of each slice, computed again if that is due."""
        due = self.rerank_every > 0 and self.epoch - self.ranked_in >= self.rerank_every
        if self.dice is not None and not due:
            return self.dice
        values = [[float(value) for value in self.scores(list(range(self.size)))] if _world()[0] == 0 else []]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(values)
        if len(values[0]) != self.size:
            raise ValueError(f"`scores` must return one Dice for each of the {self.size} slices, got {len(values[0])}.")
        self.dice, self.ranked_in = torch.tensor(values[0], dtype=torch.float64), self.epoch
        lonely = [name for name, own in self.slices.items() if self.dice[own].isfinite().sum() < 2]
        if lonely:
            rank_zero_warn(f"Patients {lonely} have fewer than two slices with a Dice and give no task.")
        return self.dice


def patient_tasks(
    dice: Mapping[int, float],
    threshold: float = 0.5,
    order: str = "active",
    tasks: int = 1,
    shots: int = 1,
    turn: int = 0,
    generator: torch.Generator | None = None,
) -> Episode:
    """Split the slices of one patient by Dice and draw tasks, pairs of disjoint lists ``D`` and ``D'`` of slices.

    A slice is good if its Dice is at least ``threshold``, else bad, and left out if its Dice is nan, as where neither
    the label nor the prediction has foreground. Each group is put in order and cut into pieces of ``2 * shots``; of
    a piece, the slices at even places are ``D`` and those at odd places ``D'``, so that the two are alike.

    Empty cases: a group without slices gives no task. A group of one slice cannot be halved and joins the other. The
    last piece may be short, and is dropped if it has one slice. Fewer than two slices with a Dice give no task.

    Args:
        dice: Current Dice by slice, in [0, 1] or nan.
        threshold: Least Dice of a good slice.
        order: ``"active"``, worst Dice first, ties by slice; or ``"passive"``, a random permutation.
        tasks: Number of tasks drawn from each group, if it has as many pieces.
        shots: Number of slices in ``D`` and in ``D'``.
        turn: How often this order has been drawn from already: the pieces are taken in turn, starting again at the
            first when all have been used.
        generator: Source of the permutations.

    Returns:
        The tasks, those of bad slices first.

    References:
        Han et al. Learning to Learn Unlearned Feature for Brain Tumor Segmentation. 2018, Algorithm 1, lines 4-8. The
        threshold and the empty cases are not in the paper.

    Example:
        >>> patient_tasks({0: 0.9, 1: 0.1, 2: 0.8, 3: 0.2, 4: float("nan")})
        [([1], [3]), ([2], [0])]
    """
    scored = {index: score for index, score in sorted(dice.items()) if not math.isnan(score)}
    good = [index for index, score in scored.items() if score >= threshold]
    bad = [index for index, score in scored.items() if score < threshold]
    groups = [sorted([*bad, *good])] if 1 in (len(good), len(bad)) else [bad, good]
    episode: Episode = []
    for group in groups:
        if order == "active":
            group.sort(key=scored.__getitem__)
        else:
            group = [group[place] for place in torch.randperm(len(group), generator=generator).tolist()]
        pieces = [group[start : start + 2 * shots] for start in range(0, len(group), 2 * shots)]
        pieces = [piece for piece in pieces if len(piece) > 1]
        for number in range(min(tasks, len(pieces))):
            piece = pieces[(turn * tasks + number) % len(pieces)]
            episode.append((piece[0::2], piece[1::2]))
    return episode


def _world() -> tuple[int, int]:
    ready = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if ready else (0, 1)
