"""Whole volumes through a network that sees windows of them, given out in blocks as they are finished."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, permutations, product
from math import prod
from typing import Any, NamedTuple

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor
from torch.nn import functional as F

from lit_continual.windows.sizes import require_few_windows, require_near_size
from lit_continual.windows.window_sums import Block, WindowAxis, WindowSums

#: Voxels of a volume below which windows are gone over in the order of MONAI, whatever its sums take.
SMALL = 2**22
#: Share of a volume that the sums of a channel may take in that order.
SHARE = 1 / 16


def parted(block: Block, count: int, halo: int) -> Iterator[Block]:
    """Cut a block into about so many along its longest axis, each with the voxels before it that a block has too."""
    stops = [start + size for start, size in zip(block.start, block.values.shape[1:], strict=True)]
    a = max(range(len(stops)), key=lambda a: stops[a] - block.own[a])
    step = -(-(stops[a] - block.own[a]) // count)
    for own in range(block.own[a], stops[a], step):
        start = block.start[a] if own == block.own[a] else own - halo
        values = block.values.narrow(a + 1, start - block.start[a], min(own + step, stops[a]) - start)
        starts, owns = (
            (*given[:a], first, *given[a + 1 :]) for given, first in ((block.start, start), (block.own, own))
        )
        yield Block(starts, owns, values)


class Layout(NamedTuple):
    """How windows lie, and how their answers are added up.

    Attributes:
        starts: Maps the size of a volume and the edge of a window, along an axis, to where windows begin.
        weight: Of the voxels of a window, of which a slice is one voxel thick, where sums are.
        order: Axes, of which the first is gone along last; ``None`` is that of MONAI, or in large volumes the one in
            which the sums take least.
        summed: Type of a sum; an answer of less precision is brought to it first.
        kept: Type in which sums wait for later windows.
    """

    starts: Callable[[int, int], list[int]]
    weight: Tensor
    order: tuple[int, ...] | None = None
    summed: torch.dtype = torch.float32
    kept: torch.dtype = torch.float32


def blocks(
    network: Callable[[Tensor], Tensor],
    volume: Tensor,
    window: Sequence[int],
    overlap: float = 0.25,
    mode: str = "gaussian",
    padding_mode: str = "constant",
    sw_batch_size: int = 16,
    halo: int = 0,
    device: Any = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Block]:
    """Map a volume ``(C, H, W, D)`` to blocks of what :func:`.slide` makes of it.

    Of the weighted sums of windows only those voxels are kept that a later window touches. They take, of ``K`` volumes
    of float32, about the share that neighbouring windows overlap along the axis that is gone along last. Windows follow
    one another along the last axis first, as in MONAI; in large volumes, along that order of axes in which the sums
    take least. In the order of MONAI a value is that of :func:`.slide`, bit for bit; in another one its sums round
    otherwise.

    Args:
        network: See :func:`.slide`.
        volume: One volume.
        window: See :func:`.slide`.
        overlap: See :func:`.slide`.
        mode: See :func:`.slide`.
        padding_mode: See :func:`.slide`.
        sw_batch_size: See :func:`.slide`.
        halo: Voxels of the blocks before it that a block has too, for interpolation: 0 or 1.
        device: Where sums are; ``None`` is where the volume is.
        dtype: Type in which sums are kept between windows; a window is added in float32.
    """
    require_near_size(window, volume.shape[1:])
    require_few_windows(window, volume.shape[1:], overlap)
    edges = (*window, 1)[: volume.ndim - 1]
    weight = compute_importance_map(edges, mode=mode, device=device or volume.device)
    layout = Layout(partial(_starts, overlap=overlap), weight, kept=dtype)
    slices = len(edges) - 1 if len(window) < len(edges) else None
    yield from laid_blocks(network, volume, layout, padding_mode, sw_batch_size, halo, slices)


def laid_blocks(
    network: Callable[[Tensor], Tensor],
    volume: Tensor,
    layout: Layout,
    padding_mode: str = "constant",
    sw_batch_size: int = 1,
    halo: int = 0,
    slices: int | None = None,
) -> Iterator[Block]:
    """Map a volume ``(C, H, W, D)`` to blocks of what ``network`` makes of windows that lie in a given way.

    Args:
        network: See :func:`.slide`.
        volume: One volume.
        layout: How windows lie, and how they are added up.
        padding_mode: See :func:`.slide`.
        sw_batch_size: See :func:`.slide`.
        halo: See :func:`blocks`.
        slices: The axis along which a network goes that takes slices, and windows are one voxel thick.
    """
    edges = layout.weight.shape
    padded, before = _padded(volume, edges, padding_mode)
    sizes = zip(padded.shape[1:], edges, strict=True)
    axes = [WindowAxis(size, edge, layout.starts(size, edge), halo) for size, edge in sizes]
    order = layout.order or _order(axes)
    sums = WindowSums([axes[a] for a in order], layout.weight.permute(order), layout.summed, layout.kept)
    places = product(*(range(len(axes[a].starts)) for a in order))
    while batch := list(islice(places, sw_batch_size)):
        windows = torch.stack([_cut(padded, axes, order, place) for place in batch])
        found = network(windows) if slices is None else network(windows.squeeze(slices + 2)).unsqueeze(slices + 2)
        for place, answer in zip(batch, found, strict=True):
            block = sums.add(place, answer.to(layout.weight.device).permute(0, *(a + 1 for a in order)))
            yield _cropped(block, order, before, volume.shape[1:])
        del found, answer


def _padded(volume: Tensor, edges: Sequence[int], mode: str) -> tuple[Tensor, list[int]]:
    """Pad a volume to the size of a window, and return how much lies before it along each axis."""
    missing = [max(edge - size, 0) for edge, size in zip(edges, volume.shape[1:], strict=True)]
    before = [count // 2 for count in missing]
    sides = [side for half, count in zip(before[::-1], missing[::-1], strict=True) for side in (half, count - half)]
    return (F.pad(volume[None], sides, mode=mode)[0] if any(missing) else volume), before


def _starts(size: int, edge: int, overlap: float) -> list[int]:
    """Where windows of an axis begin, as MONAI lays them."""
    step = edge if size == edge else max(1, int(edge * (1 - overlap)))
    return [place[0].start for place in dense_patch_slices([size], [edge], [step])]


def _cut(padded: Tensor, axes: Sequence[WindowAxis], order: Sequence[int], place: Sequence[int]) -> Tensor:
    starts = [axes[a].starts[place[order.index(a)]] for a in range(len(axes))]
    return padded[(slice(None), *(slice(s, s + axis.edge) for s, axis in zip(starts, axes, strict=True)))]


def _cropped(block: Block, order: Sequence[int], before: Sequence[int], shape: Sequence[int]) -> Block:
    """Bring a block to the axes of the volume, and take off its padding."""
    back = [order.index(a) for a in range(len(order))]
    start, own = ([given[i] for i in back] for given in (block.start, block.own))
    values = block.values.permute(0, *(i + 1 for i in back))
    for a, pad in enumerate(before):  # where there is padding there is one window
        values = values.narrow(a + 1, pad, min(shape[a], values.shape[a + 1]))
    return Block(tuple(start), tuple(own), values)


def _order(axes: Sequence[WindowAxis]) -> tuple[int, ...]:
    """Choose the order in which axes are gone over, the first of them last."""

    def taken(order: Sequence[int]) -> int:
        sorts = [axes[a] for a in order]
        return sum(
            prod([*(b.edge for b in sorts[:i]), axis.kept, *(b.size for b in sorts[i + 1 :])])
            for i, axis in enumerate(sorts)
        )

    natural, voxels = tuple(range(len(axes))), prod(axis.size for axis in axes)
    if voxels <= SMALL or taken(natural) <= SHARE * voxels:
        return natural
    return min(permutations(natural), key=taken)
