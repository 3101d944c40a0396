"""One value a case, and the mean of those that are defined."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class PerCaseScore(Metric):
    """Base of scores that compare two masks of one case, that is one volume or one image.

    A subclass writes ``case_score`` and the class attributes ``unit`` and ``higher_is_better``. The value of every case
    is kept, nan where it is undefined, and gathered over the ranks of a distributed run; the mean is over the defined
    cases, never over batches or ranks. Ranks may hold different numbers of cases. A distributed sampler that pads its
    ranks to one length repeats cases, and those count twice here: give evaluation a sampler without padding.

    Args:
        **kwargs: Options of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False
    unit: ClassVar[str] = ""
    cases: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(compute_with_cache=False, **kwargs)  # the cache would outlive `merge_state`
        self.add_state("cases", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def case_score(self, prediction: Tensor, truth: Tensor, spacing: list[float]) -> float:
        """Return the score of one case, nan where it is undefined.

        Args:
            prediction: Boolean mask, shape ``(H, W[, D])``.
            truth: Boolean mask of the same shape.
            spacing: Voxel size in mm along each axis of the masks.
        """

    def update(self, prediction: Tensor, truth: Tensor, spacing: Sequence[float] | Tensor | None = None) -> None:
        """Score the cases of a batch.

        Args:
            prediction: Boolean masks, shape ``(B, H, W[, D])``.
            truth: Boolean masks of the same shape.
            spacing: Voxel size in mm in the order of the array's axes, one for the batch or ``(B, 2 or 3)``; None is
                1 mm along every axis.

        Raises:
            ValueError: If the masks are not boolean, not 2D or 3D, or differ in shape, or a spacing does not fit them.
        """
        self._record([self.case_score(*case) for case in each_case(prediction, truth, spacing)])

    def _record(self, scores: Sequence[float]) -> None:
        # In the metric's own dtype, which a rank without cases gathers with.
        self.cases.append(torch.tensor(scores, dtype=self.dtype, device=self.device))  # type: ignore[union-attr]

    def compute(self) -> Tensor:
        """Return the mean over the defined cases, nan if there is none."""
        return self._gathered().nanmean()

    def values(self) -> Tensor:
        """Return the value of each case, nan where undefined; every rank must call it, as it gathers from all.

        The order is that of the updates, rank after rank.
        """
        with self.sync_context(should_sync=self.sync_on_compute):
            return self._gathered()

    def left_out(self) -> int:
        """Return how many cases are undefined and so not in the mean; every rank must call it."""
        return int(self.values().isnan().sum())

    def _gathered(self) -> Tensor:
        empty = torch.empty(0, dtype=self.dtype, device=self.device)
        return dim_zero_cat([empty, *([self.cases] if isinstance(self.cases, Tensor) else self.cases)])


def each_case(
    prediction: Tensor, truth: Tensor, spacing: Sequence[float] | Tensor | None
) -> Iterator[tuple[Tensor, Tensor, list[float]]]:
    """Masks and spacing of each case of a batch, checked; see :meth:`PerCaseScore.update`."""
    _check_masks(prediction, truth)
    return zip(prediction, truth, _spacing_per_case(spacing, len(truth), truth.ndim - 1), strict=True)


def _check_masks(prediction: Tensor, truth: Tensor) -> None:
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != torch.bool or mask.ndim not in (3, 4):
            raise ValueError(
                f"`{name}` must be a boolean tensor of shape (B, H, W) or (B, H, W, D), one mask a case, and is "
                f"{mask.dtype} of shape {tuple(mask.shape)}; compare it with its class or threshold first."
            )
    if prediction.shape != truth.shape:
        raise ValueError(
            f"`prediction` and `truth` must have one shape, and have {tuple(prediction.shape)} and "
            f"{tuple(truth.shape)}."
        )


def _spacing_per_case(spacing: Sequence[float] | Tensor | None, cases: int, axes: int) -> list[list[float]]:
    rows = torch.as_tensor([1.0] * axes if spacing is None else spacing, dtype=torch.float64, device="cpu")
    if rows.shape not in ((axes,), (cases, axes)) or not (rows.isfinite() & (rows > 0)).all():
        raise ValueError(
            f"`spacing` must hold positive mm along the {axes} axes of the masks, one row for the batch or for each of "
            f"its {cases} cases, and is {rows.tolist()}."
        )
    return rows.expand(cases, axes).tolist()
