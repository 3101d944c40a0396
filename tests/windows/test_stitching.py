import itertools

import pytest
import torch

from lit_continual.windows import stitching
from lit_continual.windows.sliding_window import slide
from lit_continual.windows.stitching import blocks, parted
from lit_continual.windows.window_sums import Block, WindowAxis

ORDERS = list(itertools.permutations(range(3)))
LAYOUTS = [  # volume, window, overlap
    ((9, 14, 11), (6, 6, 6), 0.25),
    ((9, 14, 11), (4, 5, 3), 0.6),
    ((7, 5, 16), (7, 6, 8), 0.5),  # a window larger than the volume along an axis
    ((4, 3, 5), (6, 6, 6), 0.25),  # along all
    ((8, 8, 1), (4, 4, 1), 0.0),  # a single slice
    ((9, 10, 6), (5, 4), 0.25),  # a network in 2D
    ((6, 6, 4), (6, 6), 0.9),
]


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request):
    shape, window, overlap = request.param
    torch.manual_seed(0)
    network = (torch.nn.Conv2d if len(window) == 2 else torch.nn.Conv3d)(2, 3, 3, padding=1).requires_grad_(False)
    return network, torch.randn(2, *shape), window, overlap


def put_together(network, volume, window, *more, **options):
    """All blocks in one volume, and how many blocks each voxel is the own of."""
    found, owners = torch.full((3, *volume.shape[1:]), torch.nan), torch.zeros(volume.shape[1:])
    for block in blocks(network, volume, window, *more, **options):
        where = tuple(slice(s, s + n) for s, n in zip(block.start, block.values.shape[1:], strict=True))
        again = found[(slice(None), *where)]
        assert torch.equal(torch.where(again.isnan(), block.values, again), block.values)  # of a halo, as it was
        found[(slice(None), *where)] = block.values
        owners[tuple(slice(own, s.stop) for own, s in zip(block.own, where, strict=True))] += 1
    return found, owners


@pytest.mark.parametrize("halo", [0, 1])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_blocks_are_the_sliding_window_bit_for_bit(layout, mode, halo):
    network, volume, window, overlap = layout
    expected = slide(network, volume[None], window, overlap, mode, "constant", 2)[0]
    found, owners = put_together(network, volume, window, overlap, mode, "constant", 2, halo=halo)
    assert torch.equal(found, expected)
    assert owners.eq(1).all()


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_in_any_order_of_axes_they_are_the_same_but_for_rounding(layout, order, monkeypatch):
    network, volume, window, overlap = layout
    monkeypatch.setattr(stitching, "_order", lambda axes: order)
    expected = slide(network, volume[None], window, overlap, sw_batch_size=3)[0]
    found, owners = put_together(network, volume, window, overlap, sw_batch_size=3, halo=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert owners.eq(1).all()


def test_a_volume_is_left_as_it_was_and_may_be_padded_otherwise():
    volume = torch.randn(1, 5, 6, 7)
    before = volume.clone()
    (block,) = blocks(lambda x: x, volume, (9, 9, 9), padding_mode="replicate", sw_batch_size=1)
    torch.testing.assert_close(block.values, volume)
    assert torch.equal(volume, before)


def test_sums_in_half_precision_are_nearly_the_same():
    torch.manual_seed(0)
    network, volume = torch.nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False), torch.randn(1, 16, 14, 12)
    expected = slide(network, volume[None], (6, 6, 6), 0.5)[0]
    found, _ = put_together(network, volume, (6, 6, 6), 0.5, dtype=torch.float16)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("size", "window", "order"),
    [
        ((64, 64, 64), (48, 48, 48), (0, 1, 2)),  # small: as MONAI goes
        ((512, 512, 600), (96, 96, 96), (2, 0, 1)),
        ((512, 512, 600), (384, 384), (2, 0, 1)),  # slices of several windows each
        ((512, 512, 600), (512, 512), (0, 1, 2)),  # of one
    ],
)
def test_sums_of_large_volumes_are_kept_along_the_axis_where_they_are_small(size, window, order):
    edges = [*window, *[1] * (3 - len(window))]
    axes = [WindowAxis(n, edge, stitching._starts(n, edge, 0.25), 1) for n, edge in zip(size, edges, strict=True)]
    assert stitching._order(axes) == order


@pytest.mark.parametrize("halo", [0, 1])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_block_is_cut_into_parts_that_own_each_voxel_once(halo, count):
    block = Block((3, 4, 5), (3, 4 + halo, 5), torch.arange(4 * 9 * 6).view(1, 4, 9, 6))
    owners = torch.zeros(4, 9, 6)
    for part in parted(block, count, halo):
        where = tuple(
            slice(s - b, s - b + n) for s, b, n in zip(part.start, block.start, part.values.shape[1:], strict=True)
        )
        assert torch.equal(part.values, block.values[(slice(None), *where)])
        owners[tuple(slice(own - b, s.stop) for own, b, s in zip(part.own, block.start, where, strict=True))] += 1
        assert part.own[1] - part.start[1] == halo
    assert owners[:, halo:].eq(1).all()
    assert not owners[:, :halo].any()
