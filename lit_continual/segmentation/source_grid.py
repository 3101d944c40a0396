"""Between the grid that a network sees and the grid of a file."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import nibabel as nib
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, SpatialResample
from torch import Tensor

from lit_continual.data.batch import Batch
from lit_continual.data.preprocessing import AXES
from lit_continual.images.resampling import SlabResample, places_along, same_grid
from lit_continual.windows.stitching import parted
from lit_continual.windows.window_sums import Block

AT_ONCE = 2**24  # numbers of a piece of a file
SHEAR = 1e-3  # voxels over a whole volume, below which axes are parallel


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
    affine, source, shape = _grids(batch)
    if tuple(volume.shape[2:]) == shape and torch.equal(affine, source):
        return volume
    turn, turned = _turned(affine, source, shape)
    placed = MetaTensor(volume[0].cpu(), affine=affine)
    resample = SlabResample(mode=mode, padding_mode="border")
    found = resample(placed, dst_affine=turned.affine, spatial_size=turned.shape[1:])
    found.applied_operations = turned.applied_operations
    back: Tensor = turn.inverse(found).as_tensor()
    return back[None].to(volume.device)


def from_source_grid(volume: Tensor, batch: Batch) -> Tensor:
    """Resample a label map or mask from the grid of its file to that of the image that a network sees.

    Each voxel is that of the nearest; what lies outside of the file is 0.

    Args:
        volume: ``(1, C, *source_shape)``.
        batch: Holds the ``image`` ``(1, C, H, W, D)``, its ``affine`` and the ``source_affine``.

    Returns:
        ``(1, C, H, W, D)``; where both grids are one, ``volume`` itself.
    """
    affine, source = (torch.as_tensor(batch[key][0], dtype=torch.float64) for key in ("affine", "source_affine"))
    shape = tuple(batch["image"].shape[2:])
    if tuple(volume.shape[2:]) == shape and torch.equal(affine, source):
        return volume
    turn = Orientation(axcodes="".join(nib.aff2axcodes(affine.numpy())), labels=AXES)
    turned = turn(MetaTensor(volume[0].float().cpu(), affine=source))
    resample = SpatialResample(mode="nearest", padding_mode="zeros")
    found: Tensor = resample(turned, dst_affine=affine, spatial_size=shape).as_tensor()
    return found[None].to(volume.device)


def _grids(batch: Batch) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    affine, source = (torch.as_tensor(batch[key][0], dtype=torch.float64) for key in ("affine", "source_affine"))
    return affine, source, tuple(map(int, batch["source_shape"][0]))


def _turned(affine: Tensor, source: Tensor, shape: Sequence[int]) -> tuple[Any, Any]:
    """What turns the grid of a file to the axes of a network's, and that grid turned, without a memory of its own."""
    turn = Orientation(axcodes="".join(nib.aff2axcodes(affine.numpy())), labels=AXES)
    return turn, turn(MetaTensor(torch.zeros(()).expand(1, *shape), affine=source))


class Axis(NamedTuple):
    """The voxels of a file along one of its axes, and where they lie along an axis of the network's grid.

    Attributes:
        source: The axis of the file.
        places: A place for each of its voxels, float64; none, which is no number, for what lies beyond the grid.
        size: Voxels of the network's grid along its axis.
    """

    source: int
    places: Tensor
    size: int

    def last(self, nearest: bool) -> Tensor:
        """The last voxel that is needed to know the value at each place."""
        return _last(self.places, nearest).clamp_max(self.size - 1)


def axes_to_source(batch: Batch, shape: Sequence[int]) -> list[Axis] | None:
    """Find where a file's voxels lie along each axis of the network's grid, whose voxels are ``shape``.

    Returns:
        Three axes; ``None`` where those of the two grids are not parallel, as of a sheared file that was resampled.
    """
    affine, source, size = _grids(batch)
    across = torch.linalg.solve(affine, source)[:3]
    along = across[:, :3].abs().argmax(1).tolist()
    reach = across[:, :3].abs() * (torch.tensor(size) - 1)
    reach[range(3), along] = 0
    if sorted(along) != [0, 1, 2]:
        return None
    turned = _turned(affine, source, size)[1]
    one = same_grid(affine, shape, turned.affine, turned.shape[1:])
    if not one and float(reach.sum(1).max()) > SHEAR:
        return None
    voxels = [torch.arange(n, dtype=torch.float64) for n in turned.shape[1:]]
    places = voxels if one else places_along(affine, shape, turned.affine, turned.shape[1:])
    given = zip(across, along, places, shape, strict=True)
    return [Axis(b, p if row[b] > 0 else p.flip(0), n) for row, b, p, n in given]


class Piece:
    """The voxels of a file that are computed from one block of a network's answer.

    Args:
        block: The block.
        axes: Of :func:`axes_to_source`.
        nearest: Whether a voxel takes the value of the nearest, in place of a linear interpolation.
    """

    def __init__(self, block: Block, axes: Sequence[Axis], nearest: bool) -> None:
        self.block, self.nearest = block, nearest
        stops = [start + size for start, size in zip(block.start, block.values.shape[1:], strict=True)]
        bounds = zip(axes, block.own, stops, strict=True)
        found = [(axis, axis.last(nearest), own, stop) for axis, own, stop in bounds]
        inside = [(axis, ((last >= own) & (last < stop)).nonzero()[:, 0]) for axis, last, own, stop in found]
        #: Whether no voxel of the file is computed from this block.
        self.empty = any(not len(voxels) for _, voxels in inside)
        ascending = [axis.places[voxels] for axis, voxels in inside]
        #: Axes of the file that are the other way around, which is mended at the end.
        self.turned = [axis.source + 2 for axis, p in zip(axes, ascending, strict=True) if len(p) and p[0] > p[-1]]
        self.places = [
            p.flip(0) if axis.source + 2 in self.turned else p for axis, p in zip(axes, ascending, strict=True)
        ]
        where = {axis.source: voxels for axis, voxels in inside}
        self.order = [axis.source for axis in axes]
        self.slices = () if self.empty else tuple(slice(int(where[b][0]), int(where[b][-1]) + 1) for b in range(3))

    def resampled(self, values: Tensor, batch: Batch, mode: str = "") -> Tensor:
        """Map values of the block, ``(1, C, *block)``, to the voxels of the file, with the block's axes.

        Args:
            values: On the grid of the network.
            batch: As in :func:`to_source_grid`, in whose place an ``Inference`` takes this.
            mode: The same.
        """
        for a, places in enumerate(self.local_places, 2):
            values = _along(values, a, places, self.nearest)
        return values

    @property
    def local_places(self) -> list[Tensor]:
        """Where the voxels of the file lie along each axis of the block."""
        return [places - start for places, start in zip(self.places, self.block.start, strict=True)]

    def put(self, values: Tensor, whole: Tensor) -> None:
        """Put values of :meth:`resampled` in their place in a volume ``(1, C, *source_shape)``."""
        turned = values.permute(0, 1, *(self.order.index(b) + 2 for b in range(3)))
        whole[(slice(None), slice(None), *self.slices)] = turned.flip(self.turned)


def pieces_of(block: Block, axes: Sequence[Axis], nearest: bool) -> Iterator[Piece]:
    """The pieces of a file that are computed from a block: one, or several where that would have too many numbers."""
    whole = Piece(block, axes, nearest)
    if whole.empty:
        return
    count = -(-len(block.values) * prod(map(len, whole.places)) // AT_ONCE)
    for part in parted(block, count, halo=int(not nearest)) if count > 1 else [block]:
        if not (piece := Piece(part, axes, nearest)).empty:
            yield piece


class Everywhere:
    """All voxels of a file, for what is the same in all of them until another piece is put over it."""

    def put(self, values: Tensor, whole: Tensor) -> None:
        """Put values ``(1, C, 1, 1, 1)`` in all voxels of a volume ``(1, C, *source_shape)``."""
        whole.copy_(values.expand_as(whole))


def _last(places: Tensor, nearest: bool) -> Tensor:
    """The last voxel that is needed to know the value at a place."""
    return places.round() if nearest else places.ceil()


def _along(values: Tensor, dim: int, places: Tensor, nearest: bool) -> Tensor:
    upper = _last(places, nearest)
    if nearest or bool((upper == places).all()):
        return taken(values, dim, upper)
    lower = (upper - 1).clamp_min(0)
    share = (places - lower).to(values).view(-1, *[1] * (values.ndim - 1 - dim))
    return torch.lerp(taken(values, dim, lower), taken(values, dim, upper), share)


def taken(values: Tensor, dim: int, places: Tensor) -> Tensor:
    """Values at whole places along an axis; where these follow one another, a view."""
    voxels = places.long()
    if bool((voxels.diff() == 1).all()):  # a view will do
        return values.narrow(dim, int(voxels[0]), len(voxels))
    return values.index_select(dim, voxels.to(values.device))
