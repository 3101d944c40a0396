"""A value whose gradient was computed beforehand."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor | None], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        return None, None, *(None if g is None else outputs[0] * g for g in ctx.gradients)


def known_gradient(value: Tensor, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    r"""Return ``value`` as a function of ``tensors`` whose gradient is ``gradients``.

    Backpropagating the result gives :math:`\partial y / \partial t_i = g_i` times whatever comes from above: a loss
    scale, the share of an accumulated batch. So a gradient that was computed by hand takes the same way through
    ``backward``, and through all that hangs on it, as any other.

    Args:
        value: Scalar, taken as it is.
        tensors: What the value is said to depend on; leaves, usually parameters.
        gradients: One per tensor, of its shape; ``None`` leaves the tensor without a gradient.

    Raises:
        ValueError: If the numbers of tensors and of gradients differ.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> y = known_gradient(torch.tensor(5.0), [w], [torch.tensor([0.5, -1.0])])
        >>> (2 * y).backward()
        >>> y.item(), w.grad
        (5.0, tensor([ 1., -2.]))
    """
    if len(tensors) != len(gradients):
        raise ValueError(f"`gradients` must have one entry per tensor, got {len(gradients)} for {len(tensors)}.")
    result: Tensor = _KnownGradient.apply(value, tuple(gradients), *tensors)  # type: ignore[no-untyped-call]
    return result
