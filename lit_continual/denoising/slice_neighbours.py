"""Which slices a 2.5D network sees at once."""

import torch
from torch import Tensor


def slice_neighbours(depth: int, channels: int) -> Tensor:
    """Indices of each slice's neighbours, itself in the middle; at the ends the outermost slice is repeated.

    Args:
        depth: Slices of the volume.
        channels: Slices seen at once, an odd number.

    Returns:
        ``(depth, channels)``: a volume ``(D, H, W)`` indexed with it becomes a batch ``(D, C, H, W)``.

    Example:
        >>> slice_neighbours(3, 3).tolist()
        [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    """
    around = torch.arange(channels) - channels // 2
    return (torch.arange(depth)[:, None] + around).clamp(0, depth - 1)
