import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_continual.functional import mc_uncertainty


@pytest.mark.parametrize("spatial", [(), (5,), (4, 3), (2, 3, 4)])
def test_is_the_mean_over_pixels_of_the_variance_over_passes(spatial):
    passes = torch.rand(7, 3, 2, *spatial, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, relative = np.zeros((3, 2)), np.zeros((3, 2))
    for n in range(3):
        for k in range(2):
            values = passes[:, n, k].reshape(7, -1).numpy()
            variances = [np.mean((v - v.mean()) ** 2) for v in values.T]
            expected[n, k] = np.mean(variances)
            relative[n, k] = np.sum(variances) / np.sum([v.mean() ** 2 for v in values.T])
    assert_close(mc_uncertainty(passes), torch.from_numpy(expected))
    assert_close(mc_uncertainty(passes, relative=True), torch.from_numpy(relative))


def test_relative_to_what_was_seen_a_slice_on_which_nothing_is_seen_is_uncertain():
    noise = torch.rand(9, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    faint, clear = 0.01 * noise, torch.zeros(9, 1, 1, 16, 16)
    clear[..., 4:12, 4:12] = 0.8 + 0.2 * noise[..., 4:12, 4:12]
    both = torch.cat([faint, clear, torch.zeros_like(clear)], 1)
    assert mc_uncertainty(both)[:, 0].argsort().tolist() == [2, 0, 1]
    assert mc_uncertainty(both, relative=True)[:, 0].argsort().tolist() == [1, 0, 2]
    assert mc_uncertainty(both, relative=True)[2, 0] == torch.inf


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
