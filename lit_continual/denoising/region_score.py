"""Bias, noise and error of regions over noise realisations, as metrics."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_continual.denoising.region_statistics import coefficient_of_variation, ensemble_bias, ensemble_rmse


class RegionScore(Metric):
    """Mean of a score over regions; one update is one region with all of its realisations.

    A region whose score is undefined is left out of the mean and counted by :meth:`left_out`; the mean of none is nan.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    missing: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("missing", torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def region_score(self, *images: Tensor) -> Tensor:
        """The score of one region, or nan where it is undefined."""

    def update(self, *images: Tensor) -> None:
        value = self.region_score(*images)
        self.total += value.nan_to_num(0.0)
        self.count += ~value.isnan()
        self.missing += value.isnan()

    def compute(self) -> Tensor:
        return self.total / self.count

    def left_out(self) -> int:
        """How many regions had no score."""
        return int(self.missing)


class EnsembleBias(RegionScore):
    """Mean over regions of :func:`~lit_continual.functional.ensemble_bias`, in percent, signed.

    Update with ``realisations (R, *spatial)``, ``truth (*spatial)`` and ``mask (*spatial)``.

    Example:
        >>> metric = EnsembleBias()
        >>> metric.update(torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]))
        >>> metric.compute()
        tensor(-12.5000, dtype=torch.float64)
    """

    def region_score(self, *images: Tensor) -> Tensor:
        realisations, truth, mask = images
        return ensemble_bias(realisations, truth, mask)


class EnsembleRMSE(RegionScore):
    """Mean over regions of :func:`~lit_continual.functional.ensemble_rmse`, in percent.

    Update with ``realisations (R, *spatial)``, ``truth (*spatial)`` and ``mask (*spatial)``.

    Example:
        >>> metric = EnsembleRMSE()
        >>> metric.update(torch.tensor([[1.0, 3.0], [1.0, 3.0]]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]))
        >>> metric.compute()
        tensor(50., dtype=torch.float64)
    """

    higher_is_better = False

    def region_score(self, *images: Tensor) -> Tensor:
        realisations, truth, mask = images
        return ensemble_rmse(realisations, truth, mask)


class CoefficientOfVariation(RegionScore):
    """Mean over regions of :func:`~lit_continual.functional.coefficient_of_variation`, in percent.

    Update with ``realisations (R, *spatial)`` and ``mask (*spatial)``.

    Example:
        >>> metric = CoefficientOfVariation()
        >>> metric.update(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([True, True]))
        >>> metric.compute()
        tensor(25., dtype=torch.float64)
    """

    higher_is_better = False

    def region_score(self, *images: Tensor) -> Tensor:
        realisations, mask = images
        return coefficient_of_variation(realisations, mask)
