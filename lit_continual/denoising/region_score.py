"""Bias, noise and error of regions over noise realisations, as a metric."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RegionScore(Metric):
    """Mean of a score over regions; one update is one region with all of its realisations.

    A region whose score is nan is left out of the mean; the mean of none is nan.

    Args:
        score: What an update calls with the images that it is given, such as
            :func:`~lit_continual.functional.ensemble_bias`.
        **options: Those of ``torchmetrics.Metric``.

    Example:
        >>> from lit_continual.denoising.region_statistics import ensemble_bias
        >>> metric = RegionScore(ensemble_bias)
        >>> metric.update(torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]))
        >>> metric.compute()
        tensor(-12.5000, dtype=torch.float64)
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, score: Callable[..., Tensor], **options: Any) -> None:
        super().__init__(**options)
        self.score = score
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, *images: Tensor) -> None:
        value = self.score(*images)
        self.total += value.nan_to_num(0.0)
        self.count += ~value.isnan()

    def compute(self) -> Tensor:
        return self.total / self.count
