"""From the grid that a network saw to the grid of a file."""

from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from torch import Tensor


def to_source_grid(volume: Tensor, batch: dict[str, Any]) -> Tensor:
    """Resample a volume, logits or image, to the grid of the file it came from.

    Args:
        volume: ``(1, C, H, W, D)`` on the grid ``batch["affine"]``.
        batch: Holds ``affine`` and ``source_affine`` ``(1, 4, 4)`` and ``source_shape`` ``(1, 3)``.

    Returns:
        ``(1, C, *source_shape)``, interpolated linearly; where both grids are one, ``volume`` itself.
    """
    affine, source, shape = batch["affine"][0], batch["source_affine"][0], batch["source_shape"][0].tolist()
    if list(volume.shape[2:]) == shape and torch.equal(affine, source):
        return volume
    placed = MetaTensor(volume[0].cpu(), affine=affine.cpu())
    resample = SpatialResample(mode="bilinear", padding_mode="border")
    resampled: Tensor = resample(placed, dst_affine=source.cpu(), spatial_size=shape).as_tensor()
    return resampled[None].to(volume.device)
