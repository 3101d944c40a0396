import numpy as np
import pytest
import torch

from lit_continual.functional import coefficient_of_variation, ensemble_bias, ensemble_rmse


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 5, (6, 5, 4))
    return truth * rng.uniform(0.5, 1.5, (7, 6, 5, 4)), truth, rng.random((6, 5, 4)) < 0.3


def tensors(*arrays):
    return [torch.from_numpy(a) for a in arrays]


def test_bias_equals_numpy(images):
    x, t, mask = images
    expected = 100 * (np.mean([one[mask].mean() for one in x]) / t[mask].mean() - 1)
    assert ensemble_bias(*tensors(x, t, mask)).item() == pytest.approx(expected, abs=1e-10)


def test_error_equals_numpy(images):
    x, t, mask = images
    expected = 100 * np.sqrt(((x.mean(0) - t)[mask] ** 2).mean()) / t[mask].mean()
    assert ensemble_rmse(*tensors(x, t, mask)).item() == pytest.approx(expected, abs=1e-10)


def test_variation_equals_numpy(images):
    x, _, mask = images
    expected = np.mean([100 * one[mask].std() / one[mask].mean() for one in x])
    assert coefficient_of_variation(*tensors(x, mask)).item() == pytest.approx(expected, abs=1e-10)


def test_bias_is_signed_and_averages_before_anything_else(images):
    _, t, mask = images
    balanced = np.stack([0.5 * t, 1.5 * t])
    assert ensemble_bias(*tensors(balanced, t, mask)).item() == pytest.approx(0, abs=1e-10)
    assert ensemble_bias(*tensors(0.9 * t[None], t, mask)).item() == pytest.approx(-10)


def test_error_sees_a_pattern_that_the_bias_does_not(images):
    _, t, mask = images
    ring = np.where(np.arange(mask.sum()) % 2, 0.1, -0.1)
    ring[-1] -= ring.sum()
    made_up = t.copy()
    made_up[mask] += ring
    noisy = np.stack([0.5 * made_up, 1.5 * made_up])
    assert ensemble_bias(*tensors(noisy, t, mask)).item() == pytest.approx(0, abs=1e-10)
    expected = 100 * np.sqrt((ring**2).mean()) / t[mask].mean()
    assert ensemble_rmse(*tensors(noisy, t, mask)).item() == pytest.approx(expected, rel=1e-10)


def test_float32_of_large_counts_is_summed_in_float64():
    x = torch.full((2, 500_000), 16_777_217 / 1e7)
    assert coefficient_of_variation(x, torch.ones(500_000, dtype=torch.bool)) == 0


def test_no_activity_is_nan():
    zero, mask = torch.zeros(2, 3), torch.ones(3, dtype=torch.bool)
    assert ensemble_bias(zero + 1, zero[0], mask).isnan()
    assert ensemble_rmse(zero + 1, zero[0], mask).isnan()
    assert coefficient_of_variation(zero, mask).isnan()


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (torch.ones(2, 3), torch.zeros(3, dtype=torch.bool), "`mask` is empty"),
        (torch.ones(2, 3), torch.ones(3), "`mask` boolean.*float32"),
        (torch.ones(2, 3), torch.ones(4, dtype=torch.bool), r"\(2, 3\) and torch.bool of shape \(4,\)"),
        (torch.ones(0, 3), torch.ones(3, dtype=torch.bool), "R >= 1"),
    ],
)
def test_bad_input(x, mask, message):
    with pytest.raises(ValueError, match=message):
        coefficient_of_variation(x, mask)
    with pytest.raises(ValueError, match=message):
        ensemble_bias(x, torch.ones(mask.shape), mask)
    with pytest.raises(ValueError, match=message):
        ensemble_rmse(x, torch.ones(mask.shape), mask)
