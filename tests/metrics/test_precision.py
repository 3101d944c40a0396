import math

import pytest
import torch
from torchmetrics.functional.classification import binary_precision

from lit_continual.metrics import Precision


def masks(*shape, seed=0):
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed)) > 0.6


def test_agrees_with_torchmetrics_case_by_case():
    prediction, truth = masks(5, 6, 7, 3)
    metric = Precision()
    metric.update(prediction, truth)
    expected = [binary_precision(p.int(), t.int()).item() for p, t in zip(prediction, truth, strict=True)]
    assert metric.values().tolist() == pytest.approx(expected)
    assert metric.compute().item() == pytest.approx(sum(expected) / 5)


def test_false_positives_lower_it_and_false_negatives_do_not():
    truth = torch.tensor([[[True, True, False, False]]])
    for prediction, expected in (([1, 0, 0, 0], 1.0), ([1, 1, 1, 1], 0.5), ([0, 0, 1, 0], 0.0)):
        metric = Precision()
        metric.update(torch.tensor([[prediction]]).bool(), truth)
        assert metric.compute() == expected


def test_rule_for_empty_masks():
    full, empty = torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2, dtype=torch.bool)
    metric = Precision()
    metric.update(full, empty)
    metric.update(empty, full)
    metric.update(empty, empty)
    assert metric.values()[0] == 0
    assert all(math.isnan(value) for value in metric.values()[1:])
    assert metric.left_out() == 2
    assert metric.compute() == 0
