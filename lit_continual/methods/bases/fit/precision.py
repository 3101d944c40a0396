"""Precision in which losses and importances are computed, whatever that of the training is."""

import torch
from torch import Tensor


def wide(tensor: Tensor) -> torch.dtype:
    """The type of a tensor, and float32 for one of less precision.

    Example:
        >>> wide(torch.zeros(1, dtype=torch.bfloat16)), wide(torch.zeros(1, dtype=torch.float64))
        (torch.float32, torch.float64)
    """
    return torch.promote_types(tensor.dtype, torch.float32)


def full_precision(tensor: Tensor) -> Tensor:
    """Return a tensor at least in single precision: half precision loses small probabilities and squares."""
    return tensor.to(wide(tensor))
