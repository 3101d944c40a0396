"""Weights that a penalty holds, and its gradient joining theirs."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from lit_continual.methods.bases.gradient_edit import add_gradient
from lit_continual.methods.bases.importance.quadratic_penalty import weighted_differences


class HeldWeights:
    r"""Parameters with the anchor :math:`\theta^*` and the importance :math:`\Omega` of each, on one device.

    On a GPU all are worked on at once. On a processor they are worked on one by one, in memory that is kept: what is
    between stays in the cache, and no new page is asked for, which takes as long as the numbers themselves.

    Args:
        parameters: :math:`\theta`.
        anchors: :math:`\theta^*` of each.
        importances: :math:`\Omega` of each.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], anchors: Sequence[Tensor], importances: Sequence[Tensor]
    ) -> None:
        self.parameters, self.anchors, self.importances = [*parameters], [*anchors], [*importances]
        on_cpu = all(p.device.type == "cpu" for p in self.parameters)
        self._kept = [*zip(_kept(self.parameters), _kept(self.importances), strict=True)] if on_cpu else []

    def __len__(self) -> int:
        return len(self.parameters)

    @torch.no_grad()
    def pull(self, stepped: Collection[nn.Parameter], strength: float) -> Tensor:
        r"""Add the gradient of :math:`\lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2` to those of the parameters.

        Args:
            stepped: The parameters that are stepped; the gradients of others stay as they are.
            strength: :math:`\lambda`.

        Returns:
            The sum, without :math:`\lambda`.
        """
        mine = {id(p) for p in stepped if p.requires_grad}
        if not self._kept:
            total, half = weighted_differences(self.parameters, self.anchors, self.importances)
            pairs = zip(self.parameters, half, strict=True)
            add_gradient([(p, value) for p, value in pairs if id(p) in mine], 2.0 * strength)
            return total
        terms, rows = [], zip(self.parameters, self.anchors, self.importances, self._kept, strict=True)
        for p, anchor, importance, (difference, weighted) in rows:
            torch.sub(p, anchor, out=difference)
            torch.mul(difference, importance, out=weighted)
            terms.append(torch.dot(difference.view(-1).to(weighted.dtype), weighted.view(-1)))
            if id(p) in mine:
                add_gradient([(p, weighted)], 2.0 * strength)
        return torch.stack(terms).sum()


def _kept(values: Sequence[Tensor]) -> list[Tensor]:
    """For each tensor one of its shape and precision, all in the same memory."""
    longest = {dtype: max(v.numel() for v in values if v.dtype == dtype) for dtype in {v.dtype for v in values}}
    memory = {dtype: torch.empty(count, dtype=dtype) for dtype, count in longest.items()}
    return [memory[v.dtype][: v.numel()].view(v.shape) for v in values]
