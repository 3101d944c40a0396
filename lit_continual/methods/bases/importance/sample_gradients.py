"""Gradients of one sample at a time, whatever stands in the batch beside it."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


def sample_gradients(values: Tensor, parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the gradient of the value of each sample; zeros where a parameter has no part in it.

    Args:
        values: ``(B,)``, one value for each sample, in the graph.
        parameters: What to differentiate by.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> [gradient[0].tolist() for gradient in sample_gradients(torch.eye(2) @ w, [w])]
        [[1.0, 0.0], [0.0, 1.0]]
    """
    for value in values:
        if value.requires_grad:
            yield list(torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True))
        else:
            yield [torch.zeros_like(p) for p in parameters]


def require_parameters(parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the parameters.

    Raises:
        ValueError: If there are none.
    """
    if not parameters:
        raise ValueError("`parameters` must hold at least one tensor that requires a gradient, got none.")
    return list(parameters.values())
