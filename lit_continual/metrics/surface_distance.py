"""Distances between the surfaces of two masks, in mm."""

from abc import abstractmethod
from math import nan

import torch
from monai.metrics import get_mask_edges, get_surface_distance
from torch import Tensor

from lit_continual.metrics.per_case_score import PerCaseScore


class SurfaceDistance(PerCaseScore):
    """Base of the distances between surfaces.

    The surface is MONAI's: the centres of the foreground voxels that share a face with the background or with the
    border of the image. Crop both masks alike, or neither: a cut through an object makes a surface.

    Empty masks: a case where one or both are empty has no distance; it is undefined and left out of the mean.
    Report ``left_out()`` beside it, as a model that predicts nothing is not punished here but in Dice.
    """

    higher_is_better = False
    unit = "mm"

    def case_score(self, prediction: Tensor, truth: Tensor, spacing: list[float]) -> float:
        if not (prediction.any() and truth.any()):  # MONAI would answer inf or an empty vector
            return nan
        one, other = get_mask_edges(prediction.cpu(), truth.cpu(), crop=True)  # the same numbers on every device
        distances = (get_surface_distance(*pair, spacing=spacing) for pair in ((one, other), (other, one)))
        return self.summary(*distances).item()

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
        return torch.maximum(there.quantile(0.95), back.quantile(0.95))
