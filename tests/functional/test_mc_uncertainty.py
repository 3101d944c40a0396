import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_continual.functional import mc_uncertainty


@pytest.mark.parametrize("spatial", [(), (5,), (4, 3), (2, 3, 4)])
def test_is_the_mean_over_pixels_of_the_variance_over_passes(spatial):
    passes = torch.rand(7, 3, 2, *spatial, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.zeros((3, 2))
    for n in range(3):
        for k in range(2):
            values = passes[:, n, k].reshape(7, -1).numpy()
            expected[n, k] = np.mean([np.mean((v - v.mean()) ** 2) for v in values.T])
    assert_close(mc_uncertainty(passes), torch.from_numpy(expected))


def test_passes_that_agree_are_certain():
    assert torch.equal(mc_uncertainty(torch.full((5, 2, 3, 4, 4), 0.7)), torch.zeros(2, 3))
    assert torch.equal(mc_uncertainty(torch.rand(1, 2, 3, 4)), torch.zeros(2, 3))


def test_half_precision_is_computed_in_single():
    passes = torch.rand(9, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    assert_close(mc_uncertainty(passes), mc_uncertainty(passes.float()))


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 3)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"`probabilities` must have shape \(t, n, k"):
        mc_uncertainty(torch.zeros(shape))
