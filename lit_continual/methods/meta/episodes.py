"""Training patients as meta-batches, ordered by what the network in training can do already."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lit_continual.data.batch import collate
from lit_continual.data.patches import PatchDataset
from lit_continual.methods.bases.fit.evaluated_layers import evaluating
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

    @classmethod
    def of(cls, given: Any) -> "Episodes | None":
        """Return the episodes that a data module describes as plain data; ``None`` where it describes none.

        Raises:
            ValueError: If it gives an argument that there is not.
        """
        if not isinstance(given, Mapping):
            return given if isinstance(given, Episodes) else None
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"`episodes` of the data has {', '.join(unknown)}: give only {', '.join(known)}.")
        return cls(**given)

    def check(self, data: Any, module: Any) -> None:
        """Refuse, before anything is trained, what can be seen to give no episodes.

        Args:
            data: The data module, if the fit has one.
            module: See :meth:`loader`.

        Raises:
            ValueError: If the module has no masks, or the data are not slices.
            MisconfigurationException: If there is no data module.
        """
        if data is None:
            raise MisconfigurationException(
                "`episodes` makes tasks of the slices of a data module, and this fit has none: pass"
                " `fit(..., datamodule=...)`, or leave `episodes` out and give batches that are lists of pairs."
            )
        if len(size := getattr(data, "patch_size", (0, 0))) != 2:
            raise ValueError(
                f"`episodes` are of slices, and `patch_size` is {list(size)}: give it two numbers, with a 2D network."
            )
        if not all(hasattr(module, name) for name in ("infer", "masks", "truths")):
            raise ValueError(
                f"`episodes` rank slices by the Dice of the network, which {type(module).__name__} does not tell. Train"
                " a `Segmenter`, or give it its methods `infer`, `masks` and `truths`."
            )

    def loader(self, given: Any, module: Any) -> PatientEpisodes:
        """Return the loader of episodes that takes the place of one of slices.

        Args:
            given: The loader of a data module of slices; seed and workers are those of its own.
            module: The network in training: a ``Segmenter``, or whatever has its ``infer``, ``masks`` and ``truths``.

        Raises:
            MisconfigurationException: If it loads something else, such as exemplars among the slices.
        """
        dataset = getattr(given, "dataset", None)
        if not isinstance(dataset, PatchDataset):
            raise MisconfigurationException(
                f"`episodes` makes tasks of the slices of one `PatchDataset`, and the data module loads"
                f" {type(dataset if dataset is not None else given).__name__}: use a `SegmentationDataModule`, without"
                " a memory of exemplars."
            )
        names = [volume["patient"] for volume in dataset.volumes]
        patients = [names[i] for i, _ in dataset.index]
        return PatientEpisodes(
            dataset,
            patients,
            lambda _: slice_dice(module, dataset),
            seed=dataset.seed,
            num_workers=given.num_workers,
            pin_memory=given.pin_memory,
            collate=collate,
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
    with evaluating(module):
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
