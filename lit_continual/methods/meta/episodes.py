"""Training patients as meta-batches, ordered by what the network in training can do already."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_continual.data.patches import PatchDataset
from lit_continual.methods.meta.patient_episodes import PatientEpisodes


@dataclass(frozen=True)
class Episodes:
    """How the slices of a patient become tasks; see :class:`PatientEpisodes`.

    Args:
        order: ``active``, worst Dice first, or ``passive``, a seeded random order.
        threshold: Least Dice of a good slice.
        tasks: Tasks drawn from the good and from the bad slices of a patient, if there are enough.
        shots: Slices in each of the two batches of a task.
        rerank_every: Epochs after which Dice is computed again; 0 keeps the first.
    """

    order: Literal["active", "passive"] = "active"
    threshold: float = 0.5
    tasks: int = 1
    shots: int = 1
    rerank_every: int = 1

    def loader(self, dataset: PatchDataset, module: Any, seed: int, num_workers: int = 0) -> PatientEpisodes:
        """Return the loader of a data set of slices.

        Args:
            dataset: The slices.
            module: The network in training: a ``Segmenter``, or whatever has its ``infer``, ``masks`` and ``truths``.
            seed: Seed of random orders.
            num_workers: Processes that load slices.

        Raises:
            ValueError: If the module cannot tell its masks.
        """
        if not all(hasattr(module, name) for name in ("infer", "masks", "truths")):
            raise ValueError(
                f"`episodes` rank slices by the Dice of the network, which {type(module).__name__} does not tell. Train"
                " a `Segmenter`, or give it its methods `infer`, `masks` and `truths`."
            )
        patients = [dataset.volumes[i]["patient"] for i, _ in dataset.index]
        return PatientEpisodes(
            dataset,
            patients,
            lambda _: slice_dice(module, dataset),
            seed=seed,
            num_workers=num_workers,
            epoch_in_key=True,
            **asdict(self),
        )


@torch.no_grad()
def slice_dice(module: Any, dataset: PatchDataset) -> list[float]:
    """Return the Dice of each slice, without augmentation: the mean over the classes that have one there.

    A class without foreground in truth and prediction has none; a slice without any is nan. The network is in eval
    mode meanwhile, and each of its parts in the mode it was afterwards.

    Args:
        module: See :meth:`Episodes.loader`.
        dataset: The slices; each volume is segmented once.
    """
    scores = []
    with _evaluating(module):
        for volume in dataset.volumes:
            masks = module.masks(module.infer(volume["image"][None].float().to(module.device)))
            truths = module.truths({"label": volume["label"][None].to(module.device), "classes": [volume["classes"]]})
            found = [_dice(masks[0, module.classes.index(name)], truth[0]) for name, truth in truths.items()]
            scores.append(torch.stack(found).nanmean(0).cpu())
    return [float(scores[i][z]) for i, z in dataset.index]


def _dice(prediction: Tensor, truth: Tensor) -> Tensor:
    """Dice of each slice of ``(H, W, D)``; 0 / 0 is nan."""
    overlap, size = (prediction & truth).sum((0, 1)), prediction.sum((0, 1)) + truth.sum((0, 1))
    return 2 * overlap / size


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
