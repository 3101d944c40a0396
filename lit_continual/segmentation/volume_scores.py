"""How well a segmenter does on whole volumes."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_continual.metrics import AverageSurfaceDistance, Dice, HausdorffDistance95, Precision
from lit_continual.metrics.surface_distance import SurfaceDistance, surface_distances
from lit_continual.segmentation.masks import Masks

SCORES: dict[str, type[Any]] = {
    "dice": Dice,
    "precision": Precision,
    "assd": AverageSurfaceDistance,
    "hd95": HausdorffDistance95,
}


class VolumeScores:
    """Scores of every class over the volumes of one evaluation.

    Args:
        classes: Names of the classes; each has metrics of its own.
        scores: Which scores, by their names in ``SCORES``.
        device: Where they are kept.

    Example:
        >>> import torch
        >>> scores = VolumeScores(["tumour"], ["dice", "precision"], "cpu")
        >>> whole, half = torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]])
        >>> scores.update("tumour", whole, half, [(1.0, 1.0)])
        {'dice': 0.666..., 'precision': 0.5}
    """

    def __init__(self, classes: Sequence[str], scores: Sequence[str], device: Any) -> None:
        self.names = list(scores) if classes else []
        self.metrics = {name: {score: SCORES[score]().to(device) for score in scores} for name in classes}

    def update(
        self, name: str, prediction: Tensor, truth: Tensor, spacing: Sequence[Sequence[float]]
    ) -> dict[str, float]:
        """Score masks ``(1, *spatial)`` of a class in one volume, with its voxel size in mm, and return its values."""
        metrics = self.metrics[name].values()
        far = any(isinstance(metric, SurfaceDistance) for metric in metrics)
        mm = torch.as_tensor(spacing, dtype=torch.float64)
        distances = surface_distances(prediction, truth, mm) if far else None
        for metric in metrics:
            known = [distances] if isinstance(metric, SurfaceDistance) else []
            metric.update(prediction, truth, spacing, *known)
        return {score: float(metric.cases[-1]) for score, metric in self.metrics[name].items()}

    def compare(
        self,
        predictions: Mapping[str, Tensor],
        truths: Mapping[str, Tensor],
        spacing: Sequence[Sequence[float]],
        annotated: Tensor | None = None,
    ) -> dict[str, Any]:
        """Score the masks ``(1, *spatial)`` of those classes that both have, and return masks and scores by class.

        Voxels ``(1, 1, *spatial)`` that were ``annotated`` for the network are taken out of both.
        """
        names = [name for name in truths if name in self.metrics]

        def scored(masks: Mapping[str, Tensor], name: str) -> Tensor:
            mask = masks[name]
            return mask if annotated is None else mask & ~annotated[:, 0].to(mask.device, torch.bool)

        found, true = (Masks(names, partial(scored, masks)) for masks in (predictions, truths))
        return {
            "prediction": Masks(names, lambda name: found[name][0]),
            "truth": Masks(names, lambda name: true[name][0]),
            "scores": {name: self.update(name, found[name], true[name], spacing) for name in names},
        }

    def compute(self, score: str) -> dict[str, Tensor]:
        """The mean over volumes of one score, by class; nan for a class without a case."""
        with warnings.catch_warnings():  # as in the sanity check
            warnings.filterwarnings("ignore", ".*before the ``update`` method")
            return {name: metrics[score].compute() for name, metrics in self.metrics.items()}

    def logged(self, counts: bool = True) -> dict[str, Tensor | float]:
        """What is logged of all scores: the mean of each class, the mean over classes, and how many were left out.

        Args:
            counts: Whether the last are among them.
        """
        found: dict[str, Tensor | float] = {}
        for score in self.names:
            means = self.compute(score)
            values = torch.stack(list(means.values()))
            # Dice is undefined for a class that is nowhere, the others also for one that is never found.
            mean = values.nanmean() if score == "dice" else values.mean()
            found |= {f"{score}/{name}": value for name, value in means.items()}
            found |= {score: mean, **({f"{score}/left_out": self.left_out(score)} if counts else {})}
        return found

    def left_out(self, score: str) -> float:
        """How many cases were left out of the means of a score, since it is undefined there."""
        return float(sum(metrics[score].left_out() for metrics in self.metrics.values()))
