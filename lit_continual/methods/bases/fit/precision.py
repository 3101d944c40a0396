"""Precision in which losses and importances are computed, whatever that of the training is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def without_autocast(precision: Any, device: torch.device) -> Iterator[None]:
    """Make tensors as the steps of a fit do, such as under ``bf16-true``, and compute without autocast.

    Args:
        precision: The ``precision_plugin`` of the trainer.
        device: Of the module.
    """
    with precision.train_step_context(), torch.autocast(device.type, enabled=False):
        yield
