"""Continual-learning scores of a stream, as metrics."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_continual.metrics.continual_scores import continual_scores
from lit_continual.metrics.evaluations import Evaluations


class ContinualScore(Evaluations):
    """Base of the scores that follow from a result matrix, whatever score the matrix holds.

    Filled like ``ResultMatrix``, one evaluation an update; ``compute`` returns one entry of
    ``lit_continual.metrics.continual_scores`` (formulas and nan rules there) as a float64 scalar.

    Args:
        num_experiences: Number of experiences T in the stream.
        score_higher_is_better: Which way the score in the matrix points; False for distances, whose sign is turned.
        **kwargs: Options of ``torchmetrics.Metric``.
    """

    key: ClassVar[str]
    baseline: Sequence[float] | Tensor | None = None
    reference: Sequence[float] | Tensor | None = None

    def __init__(self, num_experiences: int, score_higher_is_better: bool = True, **kwargs: Any) -> None:
        super().__init__(num_experiences, **kwargs)
        self.score_higher_is_better = score_higher_is_better

    def compute(self) -> Tensor:
        scores = continual_scores(self.matrix, self.baseline, self.reference, self.score_higher_is_better)
        return torch.tensor(scores[self.key], dtype=torch.float64, device=self.device)


class AverageAccuracy(ContinualScore):
    """ACC: mean of the last row, in the score's own unit and direction.

    Example:
        >>> acc = AverageAccuracy(num_experiences=2)
        >>> acc.update(after=1, on=0, score=0.5)
        >>> acc.update(after=1, on=1, score=0.7)
        >>> acc.compute()
        tensor(0.6000, dtype=torch.float64)
    """

    key = "acc"


class BackwardTransfer(ContinualScore):
    """BWT: mean change of earlier experiences since each was learned; negative is forgetting.

    Example:
        >>> bwt = BackwardTransfer(num_experiences=2, score_higher_is_better=False)  # a distance in mm
        >>> bwt.update(after=0, on=0, score=1.0)
        >>> bwt.update(after=1, on=0, score=4.0)
        >>> bwt.compute()
        tensor(-3., dtype=torch.float64)
    """

    key = "bwt"
    higher_is_better = True


class ForwardTransfer(ContinualScore):
    """FWT: mean gain on experiences not yet learned over ``baseline``, the score of an untrained model on each.

    Example:
        >>> fwt = ForwardTransfer(num_experiences=2, baseline=[0.0, 0.1])
        >>> fwt.update(after=0, on=1, score=0.3)
        >>> fwt.compute()
        tensor(0.2000, dtype=torch.float64)
    """

    key = "fwt"
    higher_is_better = True

    def __init__(self, num_experiences: int, baseline: Sequence[float] | Tensor, **kwargs: Any) -> None:
        super().__init__(num_experiences, **kwargs)
        self.baseline = baseline


class Forgetting(ContinualScore):
    """Mean loss of earlier experiences since each was best; positive is forgetting.

    Example:
        >>> forgetting = Forgetting(num_experiences=2)
        >>> forgetting.update(after=0, on=0, score=0.75)
        >>> forgetting.update(after=1, on=0, score=0.25)
        >>> forgetting.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    key = "forgetting"
    higher_is_better = False


class Intransigence(ContinualScore):
    """Mean lag, on each experience just learned, behind ``reference``, the joint or single-task model's score on it.

    Example:
        >>> intransigence = Intransigence(num_experiences=1, reference=[0.75])
        >>> intransigence.update(after=0, on=0, score=0.5)
        >>> intransigence.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    key = "intransigence"
    higher_is_better = False

    def __init__(self, num_experiences: int, reference: Sequence[float] | Tensor, **kwargs: Any) -> None:
        super().__init__(num_experiences, **kwargs)
        self.reference = reference
