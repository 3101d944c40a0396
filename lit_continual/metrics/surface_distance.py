"""Distances between the surfaces of two masks, in mm."""

from abc import abstractmethod
from collections.abc import Sequence
from math import nan

import numpy as np
import torch
from monai.metrics import get_mask_edges, get_surface_distance
from torch import Tensor
from typing_extensions import override

from lit_continual.metrics.per_case_score import PerCaseScore, each_case

#: The distance in mm of each surface point of a prediction to the surface of the truth, and the other way around.
Distances = tuple[Tensor, Tensor]
SORTED = 2**24  # elements, above which torch gives no quantile


def surface_distances(
    prediction: Tensor, truth: Tensor, spacing: Sequence[float] | Tensor | None = None
) -> list[Distances | None]:
    """Measure the distances between the surfaces of each case once, for all metrics that are made of them.

    Args:
        prediction: See :meth:`PerCaseScore.update`.
        truth: The same.
        spacing: The same.

    Returns:
        Of each case both directions, ``None`` where a mask is empty.

    Example:
        >>> masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
        >>> masks[0, :, 0], masks[1, :, 2] = True, True
        >>> surface_distances(*masks, spacing=[1.5, 0.5])
        [(tensor([3., 3., 3., 3.]), tensor([3., 3., 3., 3.]))]
    """
    return [_between(*case) for case in each_case(prediction, truth, spacing)]


def _between(prediction: Tensor, truth: Tensor, spacing: list[float]) -> Distances | None:
    if not (prediction.any() and truth.any()):  # MONAI would answer inf or an empty vector
        return None
    one, other = get_mask_edges(prediction.cpu(), truth.cpu(), crop=True)  # the same numbers on every device
    return get_surface_distance(one, other, spacing=spacing), get_surface_distance(other, one, spacing=spacing)


class SurfaceDistance(PerCaseScore):
    """Base of the distances between surfaces.

    The surface is MONAI's: the centres of the foreground voxels that share a face with the background or with the
    border of the image. Crop both masks alike, or neither: a cut through an object makes a surface.

    Empty masks: a case where one or both are empty has no distance; it is undefined and left out of the mean.
    Report ``left_out()`` beside it, as a model that predicts nothing is not punished here but in Dice.
    """

    higher_is_better = False
    unit = "mm"

    @override
    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        spacing: Sequence[float] | Tensor | None = None,
        distances: Sequence[Distances | None] | None = None,
    ) -> None:
        """Score the cases of a batch.

        Args:
            prediction: See :meth:`PerCaseScore.update`.
            truth: The same.
            spacing: The same.
            distances: Those of :func:`surface_distances`, where they are known.
        """
        self._record(list(map(self._score, distances or surface_distances(prediction, truth, spacing))))

    def case_score(self, prediction: Tensor, truth: Tensor, spacing: list[float]) -> float:
        return self._score(surface_distances(prediction[None], truth[None], spacing)[0])

    def _score(self, distances: Distances | None) -> float:
        return nan if distances is None else self.summary(*distances).item()

    @abstractmethod
    def summary(self, there: Tensor, back: Tensor) -> Tensor:
        """Return one element from the distances in mm of each surface point to the other surface, two vectors."""


class AverageSurfaceDistance(SurfaceDistance):
    r"""Average symmetric surface distance in mm.

    With S and S' the two surfaces, distances of both directions pooled, so that the larger surface counts for more:

    .. math:: \frac{\sum_{p \in S} d(p, S') + \sum_{q \in S'} d(q, S)}{|S| + |S'|}

    Surface and empty masks as in ``SurfaceDistance``.

    Example:
        >>> masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
        >>> masks[0, :, 0], masks[1, :, 2] = True, True  # two rows, two pixels apart along the first axis
        >>> distance = AverageSurfaceDistance()
        >>> distance.update(*masks, spacing=[1.5, 0.5])
        >>> distance.compute()
        tensor(3.)
    """

    def summary(self, there: Tensor, back: Tensor) -> Tensor:
        return torch.cat([there, back]).mean()


class HausdorffDistance95(SurfaceDistance):
    """95th percentile of the Hausdorff distance in mm.

    The larger of the two directions' percentiles, each interpolated linearly: ``max(P95 d(S, S'), P95 d(S', S))``.
    Surface and empty masks as in ``SurfaceDistance``.

    Example:
        >>> masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
        >>> masks[0, :, 0], masks[1, :, 2] = True, True
        >>> distance = HausdorffDistance95()
        >>> distance.update(*masks, spacing=[1.5, 0.5])
        >>> distance.compute()
        tensor(3.)
    """

    def summary(self, there: Tensor, back: Tensor) -> Tensor:
        return torch.maximum(_percentile(there), _percentile(back))


def _percentile(values: Tensor) -> Tensor:
    return values.quantile(0.95) if len(values) <= SORTED else torch.tensor(np.quantile(values.numpy(), 0.95))
