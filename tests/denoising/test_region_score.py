import pytest
import torch

from lit_continual.denoising.region_score import RegionScore
from lit_continual.functional import ensemble_bias


def test_is_the_mean_over_regions_however_large_they_are():
    bias = RegionScore(ensemble_bias)
    for size, activity in ((3, 1.0), (9, 2.0)):  # biases of 0 % and 100 %
        bias.update(torch.full((2, size), activity), torch.ones(size), torch.ones(size) > 0)
    assert bias.compute() == pytest.approx(50)


def test_a_region_without_activity_is_left_out():
    bias, mask = RegionScore(ensemble_bias), torch.ones(3) > 0
    bias.update(torch.ones(2, 3), torch.zeros(3), mask)
    assert bias.compute().isnan()
    bias.update(torch.ones(2, 3), torch.ones(3) * 2, mask)
    assert bias.compute() == -50
