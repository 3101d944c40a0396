"""The parts of RWalk's importance: a running Fisher information, and a score of the path."""

from collections.abc import Mapping

import torch
from torch import Tensor


def path_score(work: Tensor, fisher: Tensor, moved: Tensor, damping: float) -> Tensor:
    r"""How much smaller a move made the loss, over how far it went in distribution.

    .. math:: \frac{\max(0, \Delta L_i)}{\frac{1}{2} F_i \Delta\theta_i^2 + \epsilon}, \qquad
        \Delta L_i = -\sum_t g_i(t)\, \Delta\theta_i(t)

    Args:
        work: :math:`\Delta L`, of the same shape as the others.
        fisher: :math:`F`, not negative.
        moved: :math:`\Delta\theta` over the same steps.
        damping: :math:`\epsilon`, positive.

    Returns:
        The score, never negative.

    References:
        Chaudhry et al. Riemannian Walk for Incremental Learning. ECCV 2018, eq. 7.

    Example:
        >>> path_score(torch.tensor([3.0, -1.0]), torch.ones(2), torch.ones(2), damping=0.5)
        tensor([3., 0.])
    """
    return torch.relu(work) / (0.5 * fisher * moved.square() + damping)


def of_the_largest(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide values that are not negative by the largest of them all, so that they lie in [0, 1].

    Example:
        >>> of_the_largest({"a": torch.tensor([1.0, 4.0]), "b": torch.tensor(2.0)})
        {'a': tensor([0.2500, 1.0000]), 'b': tensor(0.5000)}
    """
    if not values:
        return {}
    largest = torch.stack([value.max() for value in values.values() if value.numel()]).max()
    return {name: value / largest.clamp(min=torch.finfo(value.dtype).tiny) for name, value in values.items()}
