"""L2-SP: the squared distance of parameters to their anchor, its gradient and its proximal step."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_continual.methods.bases.anchor import matched


def l2_sp(parameters: Mapping[str, Tensor], anchor: Mapping[str, Tensor], strength: float) -> Tensor:
    r"""Weighted squared distance to the anchor, :math:`\lambda \lVert \theta - \bar\theta \rVert^2`, without a ½.

    Matched by name and fused over parameters. Buffers, such as running statistics, are the caller's to leave out.

    Args:
        parameters: :math:`\theta` by name.
        anchor: :math:`\bar\theta` under the same names, with the same shapes.
        strength: :math:`\lambda`, not negative. Li et al. write :math:`\alpha/2` for it.

    Returns:
        Scalar tensor, differentiable in ``parameters``; its gradient is :math:`2\lambda(\theta - \bar\theta)`.

    Raises:
        ValueError: If the names or the shapes differ, there are none, or ``strength`` is negative or infinite.

    References:
        Sagie, Greenspan and Goldberger. Transfer Learning via Parameter Regularization for Medical Image
        Segmentation. Eq. 2.
        Li, Grandvalet and Davoine. Explicit Inductive Bias for Transfer Learning with Convolutional Networks.
        ICML 2018. https://arxiv.org/abs/1802.01483

    Example:
        >>> theta = {"encoder.weight": torch.tensor([3.0, 4.0], requires_grad=True)}
        >>> penalty = l2_sp(theta, {"encoder.weight": torch.zeros(2)}, strength=8.0)
        >>> penalty.backward()
        >>> penalty.item(), theta["encoder.weight"].grad
        (200.0, tensor([48., 64.]))
    """
    values, anchors = matched(parameters, anchor)
    _require_strength(strength, finite=True)
    return strength * _squared_norm(torch._foreach_sub(values, anchors))


@torch.no_grad()
def l2_sp_gradient(
    parameters: Mapping[str, Tensor], anchor: Mapping[str, Tensor], strength: float
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Penalty of :func:`l2_sp` and its gradient :math:`2\lambda(\theta - \bar\theta)`, without an autograd graph.

    Args:
        parameters: :math:`\theta` by name.
        anchor: :math:`\bar\theta` under the same names, with the same shapes.
        strength: :math:`\lambda`, not negative.

    Returns:
        The penalty, a scalar tensor, and the gradient by name.

    Raises:
        ValueError: If the names or the shapes differ, there are none, or ``strength`` is negative or infinite.

    References:
        Sagie, Greenspan and Goldberger, eq. 2.

    Example:
        >>> l2_sp_gradient({"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)}, strength=8.0)
        (tensor(200.), {'w': tensor([48., 64.])})
    """
    values, anchors = matched(parameters, anchor)
    _require_strength(strength, finite=True)
    differences = torch._foreach_sub(values, anchors)
    penalty = strength * _squared_norm(differences)
    torch._foreach_mul_(differences, 2.0 * strength)
    return penalty, dict(zip(parameters, differences, strict=True))


@torch.no_grad()
def l2_sp_proximal_(parameters: Mapping[str, Tensor], anchor: Mapping[str, Tensor], strength: float, lr: float) -> None:
    r"""Move parameters towards their anchor in place, :math:`\theta \leftarrow \bar\theta + s\,(\theta - \bar\theta)`.

    .. math:: s = \frac{1}{1 + 2\eta\lambda}

    is the proximal operator of :math:`\eta\lambda\lVert\theta-\bar\theta\rVert^2`: stable at every
    :math:`\eta\lambda`, where the explicit step diverges once :math:`\eta\lambda > 1`, and the same under every
    optimizer, where adaptive ones normalise an explicit gradient. An infinite ``strength`` sets the anchor exactly.

    Args:
        parameters: :math:`\theta` by name, after the optimizer step; modified.
        anchor: :math:`\bar\theta` under the same names, with the same shapes.
        strength: :math:`\lambda`, not negative; 0 leaves every bit as it is.
        lr: Learning rate :math:`\eta` of the optimizer step.

    Raises:
        ValueError: If the names or the shapes differ, there are none, or ``strength`` is negative.

    Example:
        >>> theta = {"w": torch.tensor([3.0, 4.0])}
        >>> l2_sp_proximal_(theta, {"w": torch.zeros(2)}, strength=5.0, lr=0.1)
        >>> theta["w"]
        tensor([1.5000, 2.0000])
    """
    values, anchors = matched(parameters, anchor)
    _require_strength(strength, finite=False)
    if strength == 0 or lr == 0:
        return
    torch._foreach_lerp_(values, anchors, 1.0 - 1.0 / (1.0 + 2.0 * lr * strength))  # one pass over the weights


def _require_strength(strength: float, finite: bool) -> None:
    if not strength >= 0 or (finite and math.isinf(strength)):
        raise ValueError(f"`strength` must be 0 or more{' and finite' if finite else ''}, got {strength}.")


def _squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(list(tensors))).square().sum()
