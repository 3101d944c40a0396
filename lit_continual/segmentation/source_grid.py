"""Between the grid that a network sees and the grid of a file."""

import nibabel as nib
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, SpatialResample
from torch import Tensor

from lit_continual.data.batch import Batch
from lit_continual.data.preprocessing import AXES


def to_source_grid(volume: Tensor, batch: Batch, mode: str = "bilinear") -> Tensor:
    """Resample a volume, logits or image, to the grid of the file it came from.

    It is resampled first and turned then, the way back of a preprocessing that turns first: to turn rounds nothing, so
    a voxel that lies between two goes to the same as in MONAI's inverse of it.

    Args:
        volume: ``(1, C, H, W, D)`` on the grid ``batch["affine"]``.
        batch: Holds the ``affine``, ``source_affine`` and ``source_shape`` of the volume.
        mode: ``"bilinear"`` or ``"nearest"``.

    Returns:
        ``(1, C, *source_shape)``; where both grids are one, ``volume`` itself.
    """
    affine, source = (torch.as_tensor(batch[key][0], dtype=torch.float64) for key in ("affine", "source_affine"))
    shape = tuple(map(int, batch["source_shape"][0]))
    if tuple(volume.shape[2:]) == shape and torch.equal(affine, source):
        return volume
    turn = Orientation(axcodes="".join(nib.aff2axcodes(affine.numpy())), labels=AXES)
    turned = turn(MetaTensor(torch.zeros(()).expand(1, *shape), affine=source))  # no memory of its own
    placed = MetaTensor(volume[0].cpu(), affine=affine)
    resample = SpatialResample(mode=mode, padding_mode="border")
    found = resample(placed, dst_affine=turned.affine, spatial_size=turned.shape[1:])
    found.applied_operations = turned.applied_operations
    back: Tensor = turn.inverse(found).as_tensor()
    return back[None].to(volume.device)


def from_source_grid(volume: Tensor, batch: Batch, mode: str = "nearest") -> Tensor:
    """Resample a volume, label map or mask, from the grid of its file to that of the image that a network sees.

    What lies outside of the file is 0.

    Args:
        volume: ``(1, C, *source_shape)``.
        batch: Holds the ``image`` ``(1, C, H, W, D)``, its ``affine`` and the ``source_affine``.
        mode: ``"nearest"`` or ``"bilinear"``.

    Returns:
        ``(1, C, H, W, D)``; where both grids are one, ``volume`` itself.
    """
    affine, source = (torch.as_tensor(batch[key][0], dtype=torch.float64) for key in ("affine", "source_affine"))
    shape = tuple(batch["image"].shape[2:])
    if tuple(volume.shape[2:]) == shape and torch.equal(affine, source):
        return volume
    turn = Orientation(axcodes="".join(nib.aff2axcodes(affine.numpy())), labels=AXES)
    turned = turn(MetaTensor(volume[0].float().cpu(), affine=source))
    resample = SpatialResample(mode=mode, padding_mode="zeros")
    found: Tensor = resample(turned, dst_affine=affine, spatial_size=shape).as_tensor()
    return found[None].to(volume.device)
