"""Volumes on another grid, slab by slab, with the numbers of MONAI's own resampling."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import AFFINE_TOL
from monai.networks.utils import to_norm_affine
from monai.transforms import Spacing, SpatialResample
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

AT_ONCE = 2**20  # voxels of a slab
FEW = 16  # voxels along the other axes, so many that products are rounded as those of a whole grid


class SlabResample(SpatialResample):  # type: ignore[misc]  # MONAI is not typed
    """MONAI's ``SpatialResample`` of ``(C, H, W, D)``, in the memory of a channel in float64 and of the result.

    Of whole numbers the nearest are whole numbers of the same type, which MONAI's own gives as float32.

    MONAI's own takes float64 copies of all channels and of a grid with three numbers a voxel. Coordinates and values
    are float64 here too, and every voxel is computed from the same numbers by the same functions.
    """

    @override
    def __call__(
        self, img: Any, dst_affine: Any = None, spatial_size: Any = None, mode: Any = None, **more: Any
    ) -> Any:
        """Resample as MONAI does, whose arguments these are."""
        mode, size = mode or self.mode, None if spatial_size is None else [int(n) for n in spatial_size]
        asked = {name: value for name, value in more.items() if value not in (None, False)}
        if asked or size is None or img.ndim != 4 or mode not in ("bilinear", "nearest"):
            return super().__call__(img, dst_affine, spatial_size, mode, **more)
        source = torch.as_tensor(img.affine, dtype=torch.float64, device="cpu")
        target = torch.as_tensor(dst_affine, dtype=torch.float64, device="cpu")
        if same_grid(source, img.shape[1:], target, size):
            return super().__call__(img, dst_affine, spatial_size, mode, **more)
        across = _across(source, target)
        return MetaTensor(_resampled(img.as_tensor(), across, size, mode, self.padding_mode), affine=source @ across)


class SlabSpacing(Spacing):  # type: ignore[misc]  # MONAI is not typed
    """MONAI's ``Spacing`` by :class:`SlabResample`.

    Args:
        pixdim: Voxel size along each axis, in mm.
    """

    def __init__(self, pixdim: Sequence[float]) -> None:
        super().__init__(pixdim=pixdim)
        self.sp_resample = SlabResample()


def same_grid(source: Tensor, shape: Sequence[int], target: Tensor, size: Sequence[int]) -> bool:
    """Whether MONAI takes two grids, of affines and sizes, for one, and resamples nothing."""
    pairs = (source, target), (_across(source, target), torch.eye(4, dtype=torch.float64))
    return list(shape) == list(size) and any(torch.allclose(*pair, atol=AFFINE_TOL) for pair in pairs)


def _across(source: Tensor, target: Tensor) -> Tensor:
    """What brings the indices of one grid to those of another; by NumPy, whose bits MONAI has."""
    return torch.from_numpy(np.linalg.solve(source.numpy(), target.numpy()))


def _resampled(volume: Tensor, across: Tensor, size: Sequence[int], mode: str, padding_mode: str) -> Tensor:
    """Take the voxels of a grid of ``size`` from ``(C, H, W, D)``, at their indices times ``across``."""
    theta = to_norm_affine(across[None], volume.shape[1:], size, align_corners=False)[0].to(volume.device)
    whole_numbers = mode == "nearest" and not volume.is_floating_point()
    kind = volume.dtype if whole_numbers else torch.float32
    found = torch.empty(len(volume), *size, dtype=kind, device=volume.device)
    lines = [_centres(n).to(volume.device) for n in size]
    rows = max(1, AT_ONCE // (size[1] * size[2]))
    for k, channel in enumerate(volume):
        whole = channel.double()[None, None]
        for begin in range(0, size[0], rows):
            part = [lines[0][begin : begin + rows], *lines[1:]]
            taken = F.grid_sample(whole, _grid(part, theta), mode=mode, padding_mode=padding_mode, align_corners=False)
            found[k, begin : begin + rows] = taken[0, 0]
    return found


def _grid(lines: Sequence[Tensor], theta: Tensor) -> Tensor:
    """The places that ``grid_sample`` takes, ``(1, H, W, D, 3)``, by the steps of ``affine_grid``."""
    mesh = torch.meshgrid(*lines, indexing="ij")
    base = torch.stack([*mesh[::-1], torch.ones_like(mesh[0])], -1)  # torch names axes backwards
    backwards = theta[[2, 1, 0, 3]][:, [2, 1, 0, 3]][:3].T
    return torch.bmm(base.view(1, -1, 4), backwards[None]).view(1, *base.shape[:3], 3)


def places_along(source: Tensor, shape: Sequence[int], target: Tensor, size: Sequence[int]) -> list[Tensor]:
    """Find where the voxels of a grid lie along each axis of another, parallel one, as resampling rounds it.

    Args:
        source: Affine of the grid that has the values.
        shape: Its voxels.
        target: Affine of the other one, whose axes are in the same order and direction.
        size: Its voxels.

    Returns:
        A place in ``[0, n - 1]`` for each voxel along each axis, float64; what lies between two voxels does so as
        for ``grid_sample``.
    """
    theta = to_norm_affine(_across(source, target)[None], shape, size, align_corners=False)[0]
    lines, found = [_centres(n) for n in size], []
    for a, n in enumerate(shape):
        part = _grid([line if b == a else line[:FEW] for b, line in enumerate(lines)], theta)[0]
        x = part.movedim(a, 0)[:, 0, 0, 2 - a]
        found.append((((x + 1) * n - 1) / 2).clamp(0, n - 1))
    return found


def _centres(count: int) -> Tensor:
    """The centres of voxels from -1 to 1, by the steps of ``affine_grid``."""
    ends = torch.linspace(-1, 1, count, dtype=torch.float64) if count > 1 else torch.zeros(1, dtype=torch.float64)
    return ends * (count - 1) / count
