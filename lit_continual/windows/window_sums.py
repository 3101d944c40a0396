"""The weighted sums of windows of a volume, kept only where later windows touch them."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """A box of a volume that no later window touches.

    Attributes:
        start: Its first voxel along each axis.
        own: Its first voxel along each axis that is not in an earlier block too.
        values: ``(K, H, W, D)``.
    """

    start: tuple[int, ...]
    own: tuple[int, ...]
    values: Tensor


class WindowAxis:
    """Where windows of one axis begin, and what is done with a voxel when."""

    def __init__(self, size: int, edge: int, starts: list[int], halo: int) -> None:
        self.size, self.edge, self.halo, self.starts = size, edge, halo, starts
        self.stops = [*starts[1:], size]  # before which no later window begins
        #: Voxels of a window that the next one needs.
        self.kept = max((a + edge - b + halo for a, b in pairwise(starts)), default=0)

    def first(self, i: int) -> int:
        """The first voxel of the block of a window."""
        return self.starts[i] - (self.halo if i else 0)


class WindowSums:
    """Weighted sums of windows that follow one another in lexicographic order.

    What later windows touch is kept for each axis by itself: along it, only the voxels that the next window along it
    needs; along the axes before it, those of a window; along the axes after it, all of them.
    """

    def __init__(self, axes: Sequence[WindowAxis], weight: Tensor, summed: torch.dtype, kept: torch.dtype) -> None:
        self.axes, self.weight, self.dtype = axes, weight, kept
        self.kept: list[Tensor] = []
        self.room = weight.new_empty(0, dtype=summed)  # for the sums of one window

    def add(self, place: Sequence[int], answer: Tensor) -> Block:
        """Add the answer ``(K, *window)`` of the window at a place, and return the block that it finishes."""
        axes = list(zip(self.axes, place, strict=True))
        first = [axis.first(i) for axis, i in axes]
        own = [axis.starts[i] for axis, i in axes]
        self._make_room(len(answer) + 1)
        size = [s - f + axis.edge for s, f, (axis, _) in zip(own, first, axes, strict=True)]
        sums = self.room[: (len(answer) + 1) * prod(size)].view(-1, *size).zero_()
        self._recall(sums, place, first)
        inner = sums[(slice(None), *(slice(s - f, None) for s, f in zip(own, first, strict=True)))]
        exact = torch.promote_types(answer.dtype, sums.dtype)
        inner[:-1] += answer.to(exact).mul_(self.weight)  # nobody else has it
        inner[-1] += self.weight
        self._keep(sums, place, first)
        stops = [axis.stops[i] - f for (axis, i), f in zip(axes, first, strict=True)]
        done = sums[(slice(None), *map(slice, stops))]
        return Block(tuple(first), tuple(own), done[:-1] / done[-1:])

    def _make_room(self, channels: int) -> None:
        if not len(self.room):
            self.room = self.room.new_empty(channels * prod(axis.edge + axis.halo for axis in self.axes))
        for a in range(len(self.kept), len(self.axes)):
            before = [axis.edge + axis.halo for axis in self.axes[:a]]
            size = [channels, *before, self.axes[a].kept, *(axis.size for axis in self.axes[a + 1 :])]
            self.kept.append(torch.empty(size, device=self.weight.device, dtype=self.dtype))

    def _recall(self, sums: Tensor, place: Sequence[int], first: Sequence[int]) -> None:
        """Put what was kept where it belongs; what was kept for a later axis is newer."""
        for a, (axis, kept) in enumerate(zip(self.axes, self.kept, strict=True)):
            if place[a]:
                count = axis.starts[place[a] - 1] + axis.edge - first[a]
                size = sums.shape[1:]
                after = [slice(f, f + n) for f, n in zip(first[a + 1 :], size[a + 1 :], strict=True)]
                sums.narrow(a + 1, 0, count).copy_(kept[(slice(None), *map(slice, size[:a]), slice(count), *after)])

    def _keep(self, sums: Tensor, place: Sequence[int], first: Sequence[int]) -> None:
        for a, (axis, kept) in enumerate(zip(self.axes, self.kept, strict=True)):
            if place[a] + 1 < len(axis.starts):
                begin = axis.stops[place[a]] - axis.halo - first[a]
                found = sums.narrow(a + 1, begin, sums.shape[a + 1] - begin)
                rest = [(other.starts[i], other.stops[i]) for other, i in zip(self.axes, place, strict=True)][a + 1 :]
                for b, (start, stop) in enumerate(rest, a + 1):
                    found = found.narrow(b + 1, start - first[b], stop - start)
                after = [slice(start, stop) for start, stop in rest]
                kept[(slice(None), *map(slice, found.shape[1 : a + 2]), *after)] = found.to(self.dtype)
