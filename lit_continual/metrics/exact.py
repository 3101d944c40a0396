"""Numbers in float64, which not every device has."""

import torch
from torch import Tensor


def exact_device(device: torch.device) -> torch.device:
    """A device, and the CPU in place of one without float64, such as Apple's.

    Example:
        >>> exact_device(torch.device("cuda:1")), exact_device(torch.device("mps"))
        (device(type='cuda', index=1), device(type='cpu'))
    """
    return torch.device("cpu") if device.type == "mps" else device


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on its :func:`exact_device`."""
    return tensor.to(exact_device(tensor.device)).double()
