import torch

from lit_continual.denoising.region_score import CoefficientOfVariation, EnsembleBias, EnsembleRMSE
from lit_continual.functional import coefficient_of_variation, ensemble_bias, ensemble_rmse

GENERATOR = torch.Generator().manual_seed(0)
REGIONS = [
    (torch.rand(4, 5, 5, generator=GENERATOR) + 1, torch.rand(5, 5, generator=GENERATOR) + 1, torch.eye(5) > 0),
    (torch.rand(2, 3, generator=GENERATOR) + 1, torch.rand(3, generator=GENERATOR) + 1, torch.ones(3) > 0),
]


def test_mean_over_regions():
    bias, error, variation = EnsembleBias(), EnsembleRMSE(), CoefficientOfVariation()
    for x, truth, mask in REGIONS:
        bias.update(x, truth, mask)
        error.update(x, truth, mask)
        variation.update(x, mask)
    assert bias.compute() == sum(ensemble_bias(*region) for region in REGIONS) / 2
    assert error.compute() == sum(ensemble_rmse(*region) for region in REGIONS) / 2
    assert variation.compute() == sum(coefficient_of_variation(x, mask) for x, _, mask in REGIONS) / 2


def test_a_region_without_activity_is_left_out_and_counted():
    bias, mask = EnsembleBias(), torch.ones(3) > 0
    bias.update(torch.ones(2, 3), torch.zeros(3), mask)
    assert bias.compute().isnan()
    bias.update(torch.ones(2, 3), torch.ones(3) * 2, mask)
    assert (bias.compute(), bias.left_out()) == (-50, 1)
