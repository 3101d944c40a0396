"""One by one on a processor, all at once on a GPU: the same penalty, which is that written by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lit_continual.methods.bases.importance.held_weights import HeldWeights


@pytest.fixture
def parts():
    """Parameters of several shapes and precisions, with anchors, importances and what else pulls at them."""
    torch.manual_seed(0)
    kinds = [((3, 4), torch.float32), ((2, 5, 3), torch.float64), ((), torch.float32), ((7,), torch.bfloat16)]
    parameters = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape, dtype in kinds]
    importances = [torch.rand_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    for p in parameters[:-2]:  # the others are outside the loss of the module
        p.grad = torch.randn_like(p)
    return parameters, [torch.randn_like(p) for p in parameters], importances


@pytest.mark.parametrize("at_once", [False, True])
def test_only_what_is_stepped_is_pulled_and_as_by_hand(parts, at_once):
    parameters, anchors, importances = parts
    parameters[0].requires_grad_(requires_grad=False)
    before = copy.deepcopy([p.grad for p in parameters])
    held = HeldWeights(parameters, anchors, importances)
    if at_once:
        held._kept = []
    for _ in range(2):  # what is kept does not add up
        total = held.pull(parameters[:1] + parameters[2:], strength=0.5)
    terms = [w * (p - a) ** 2 for p, a, w in zip(*parts, strict=True)]
    assert_close(total.double(), sum(t.double().sum() for t in terms).detach(), rtol=1e-2, atol=0)
    assert_close([p.grad for p in parameters[:2]], before[:2], rtol=0, atol=0)
    for p, anchor, importance in list(zip(*parts, strict=True))[2:]:
        assert_close(p.grad, (2 * importance * (p - anchor)).detach().to(p.dtype), rtol=2e-2, atol=1e-3)


def test_nothing_held_is_falsy():
    assert not HeldWeights([], [], [])
