"""What a weight has done for the loss, over how far it went."""

import torch
from torch import Tensor


def synaptic_importance(work: Tensor, moved: Tensor, damping: float = 0.1) -> Tensor:
    r"""Importance of weights by the path that training took.

    .. math:: \Omega_i = \frac{\max(0, \omega_i)}{(\theta_i - \theta_i^{start})^2 + \xi}, \qquad
        \omega_i = - \sum_t g_i(t)\, \Delta\theta_i(t)

    Args:
        work: :math:`\omega`, by how much the steps of each weight made the loss smaller.
        moved: :math:`\theta - \theta^{start}`, how far it is from where it was, of the same shape.
        damping: :math:`\xi`, positive; bounds the importance of what hardly moved.

    Returns:
        :math:`\Omega`, never negative.

    Raises:
        ValueError: If the damping is not positive or the shapes differ.

    References:
        Zenke, Poole and Ganguli. Continual Learning Through Synaptic Intelligence. ICML 2017, eq. 3 and 5.

    Example:
        >>> synaptic_importance(torch.tensor([3.0, -1.0]), torch.tensor([1.0, 1.0]), damping=0.5)
        tensor([2., 0.])
    """
    if damping <= 0:
        raise ValueError(f"`damping` must be positive, got {damping}.")
    if work.shape != moved.shape:
        raise ValueError(f"`work` has shape {tuple(work.shape)} and `moved` {tuple(moved.shape)}: give one of each.")
    return torch.relu(work) / (moved.square() + damping)
