"""How much the data need each input channel of a convolution, by the gradients of its weight."""

from typing import Literal

from torch import Tensor

from lit_continual.metrics.exact import in_float64


def channel_importance(
    weight: Tensor, gradient: Tensor, score: Literal["fisher", "activation_gradient"], transposed: bool = False
) -> Tensor:
    r"""Importance of the input channels of a convolution, by the gradient :math:`g` of one sample's loss.

    .. math:: \mathrm{fisher}_c = \sum_{n, x} g_{n,c,x}^2, \qquad
        \mathrm{activation\_gradient}_c = \Big| \sum_{n, x} W_{n,c,x}\, g_{n,c,x} \Big|
        = \Big| \sum_v a_{c,v} \frac{\partial L}{\partial a_{c,v}} \Big|

    ``fisher`` is the trace of the Fisher information of the channel's kernels. ``activation_gradient`` is the change of
    the loss, to first order, where this convolution does not read the channel :math:`a_c` at all: what it makes is
    linear in the channel and in its kernels, so that both sums are equal, over voxels :math:`v` and over the kernels.

    Args:
        weight: ``(N, C_in, *kernel)``; ``(C_in, N, *kernel)`` if ``transposed``.
        gradient: Of the same shape.
        score: Which of the two.
        transposed: Whether the convolution is a transposed one.

    Returns:
        ``(C_in,)``, not negative.

    References:
        Kirkpatrick et al. Overcoming catastrophic forgetting in neural networks. PNAS 2017, for the Fisher information.
        Molchanov et al. Pruning Convolutional Neural Networks for Resource Efficient Inference. ICLR 2017, eq. 8, for
        the other, which it averages over voxels.

    Example:
        >>> import torch
        >>> weight, gradient = torch.tensor([[[2.0], [1.0]]]), torch.tensor([[[3.0], [-1.0]]])  # two channels
        >>> channel_importance(weight, gradient, "fisher"), channel_importance(weight, gradient, "activation_gradient")
        (tensor([9., 1.]), tensor([6., 1.]))
    """
    others = [axis for axis in range(weight.ndim) if axis != (0 if transposed else 1)]
    return gradient.square().sum(others) if score == "fisher" else (weight * gradient).sum(others).abs()


def ranks(importance: Tensor) -> Tensor:
    """The share of the channels of a layer that matter less than each, in [0, 1), float64.

    A threshold on it is a quantile: of a layer whose channels all differ it lets that share through. Channels that
    matter the same have the same rank; where all do, it is 1, and where none matters, it is 0.

    Args:
        importance: ``(C_in,)``, not negative.

    Example:
        >>> import torch
        >>> ranks(torch.tensor([3.0, 0.0, 0.0, 9.0])).tolist(), ranks(torch.ones(2)).tolist()
        ([0.5, 0.0, 0.0, 0.75], [1.0, 1.0])
    """
    if importance.min() == importance.max():
        return in_float64(importance > 0)
    return in_float64(importance[:, None] > importance[None]).mean(1)
