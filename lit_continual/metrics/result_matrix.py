"""The result matrix of a stream."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lit_continual.metrics.evaluations import Evaluations


class ResultMatrix(Evaluations):
    """Result matrix R of shape ``(T, T)``, float64: score on experience j after training on experience i.

    A cell that was not evaluated is nan, never 0. See ``Evaluations`` for cells that are evaluated more than once.

    Example:
        >>> result = ResultMatrix(num_experiences=2)
        >>> result.update(after=0, on=0, score=0.9)
        >>> result.update(after=1, on=0, score=0.5)
        >>> result.compute()
        tensor([[0.9000,    nan],
                [0.5000,    nan]], dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        return self.matrix

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)
        return lambda: wrapped().view_as(self.matrix)  # torchmetrics squeezes the (1, 1) of a single experience
