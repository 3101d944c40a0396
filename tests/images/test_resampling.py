import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacing

from lit_continual.images import resampling
from lit_continual.images.resampling import SlabSpacing
from tests.largest_tensor import largest_tensor

TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
GRIDS = {
    "straight": np.diag([1.0, 0.8, 2.5]),
    "flipped": np.diag([-0.7, 1.1, -3.0])[:, [2, 0, 1]],
    "oblique": TURN @ np.diag([0.9, 1.4, 2.0]),
    "sheared": np.diag([1.0, 0.8, 2.5]) + np.array([[0, 0.1, 0], [0, 0, 0.2], [0, 0, 0]]),
}


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(2, 13, 9, 11), (1, 6, 8, 1), (1, 1, 1, 5)], ids=str)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_slabs_have_the_bits_of_monai(grid, shape, mode, monkeypatch):
    monkeypatch.setattr(resampling, "AT_ONCE", 60)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3], affine[:3, 3] = torch.from_numpy(grid), torch.tensor([3.0, -20.0, 100.0])
    volume = MetaTensor(torch.randn(shape, generator=torch.Generator().manual_seed(0)), affine=affine)
    for spacing in ([1.0, 0.6, 1.7], [1.3], grid_spacing(grid)):
        expected, found = Spacing(spacing)(volume, mode=mode), SlabSpacing(spacing)(volume, mode=mode)
        assert torch.equal(found.as_tensor(), expected.as_tensor())
        assert torch.equal(found.affine, expected.affine)
        assert found.dtype == expected.dtype


def grid_spacing(grid):
    return np.linalg.norm(grid, axis=0).tolist()


def test_no_tensor_is_larger_than_a_channel_in_float64(monkeypatch):
    monkeypatch.setattr(resampling, "AT_ONCE", 2**12)
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0])).double()
    volume, spacing = MetaTensor(torch.rand(2, 32, 32, 32), affine=affine), SlabSpacing([1.0, 1.0, 2.1])
    assert largest_tensor(lambda: spacing(volume)) <= 8 * 32**3
    assert largest_tensor(lambda: Spacing([1.0, 1.0, 2.1])(volume)) > 2 * 8 * 32**3
