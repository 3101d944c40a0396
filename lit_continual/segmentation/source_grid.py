"""From the grid that a network saw to the grid of a file."""

import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from torch import Tensor

from lit_continual.data.batch import Batch


def to_source_grid(volume: Tensor, batch: Batch) -> Tensor:
    """Resample a volume, logits or image, to the grid of the file it came from.

    Args:
        volume: ``(1, C, H, W, D)`` on the grid ``batch["affine"]``.
        batch: Holds the ``affine``, ``source_affine`` and ``source_shape`` of the volume.

    Returns:
        ``(1, C, *source_shape)``, interpolated linearly; where both grids are one, ``volume`` itself.
    """
    affine, source = (torch.as_tensor(batch[key][0], dtype=torch.float64) for key in ("affine", "source_affine"))
    shape = tuple(map(int, batch["source_shape"][0]))
    if tuple(volume.shape[2:]) == shape and torch.equal(affine, source):
        return volume
    placed = MetaTensor(volume[0].cpu(), affine=affine)
    resample = SpatialResample(mode="bilinear", padding_mode="border")
    resampled: Tensor = resample(placed, dst_affine=source, spatial_size=shape).as_tensor()
    return resampled[None].to(volume.device)
