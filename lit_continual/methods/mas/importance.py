"""How much the answers of a network depend on each of its weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_continual.methods.bases.fit.precision import full_precision
from lit_continual.methods.bases.importance.sample_gradients import require_parameters, sample_gradients


def memory_aware_importance(outputs: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Sensitivity of the squared norm of a network's outputs to its parameters, the mean over samples.

    .. math:: \Omega_i = \frac{1}{N} \sum_n \left| \frac{\partial}{\partial\theta_i}
        \frac{1}{V} \sum_v \lVert f(x_n)_v \rVert_2^2 \right|

    with the norm over channels and the mean over :math:`V` voxels. The absolute value is taken of each sample's own
    gradient: in the gradient of a batch opposite ones would cancel. So the network must be in evaluation mode, where no
    sample has a part in what it answers on another. Needs no labels.

    Args:
        outputs: :math:`f`, ``(N, C, *spatial)`` in the graph, or ``(N, C)``.
        parameters: :math:`\theta` by name, which require gradients.

    Returns:
        :math:`\Omega` by name, never negative; 0 for a parameter that the outputs do not depend on.

    Raises:
        ValueError: If there are no parameters.

    References:
        Aljundi et al. Memory Aware Synapses. ECCV 2018, eq. 2 and 4.

    Example:
        >>> w = torch.tensor([[1.0], [-2.0]], requires_grad=True)
        >>> memory_aware_importance(torch.tensor([[1.0], [-1.0]]) @ w.T, {"w": w})
        {'w': tensor([[2.],
                [4.]])}
    """
    tensors = require_parameters(parameters)
    total = [torch.zeros_like(p) for p in tensors]
    norms = full_precision(outputs).square().sum(1).reshape(len(outputs), -1).mean(1)
    for gradient in sample_gradients(norms, tensors):
        torch._foreach_add_(total, torch._foreach_abs(gradient), alpha=1 / len(outputs))
    return dict(zip(parameters, total, strict=True))
