import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lit_continual.functional import fisher_information
from tests.methods.importances import slopes


@pytest.fixture
def linear(golden):
    data = {name: torch.from_numpy(value) for name, value in golden("importance").items()}
    return data | {"theta": {"W": data["W"].clone().requires_grad_()}}


def test_the_empirical_one_is_golden(linear):
    found = fisher_information(linear["X"] @ linear["theta"]["W"].T, linear["theta"], linear["labels"])
    assert_close(found["W"], linear["fisher_given"], rtol=1e-12, atol=0)
    assert not torch.allclose(found["W"], linear["wrong/fisher_of_batch_gradient"], rtol=0.1)


def test_the_expectation_over_the_networks_own_answers_is_golden(linear):
    found = fisher_information(linear["X"] @ linear["theta"]["W"].T, linear["theta"], "expected")
    assert_close(found["W"], linear["fisher_expected"], rtol=1e-12, atol=1e-15)


def test_labels_that_are_drawn_have_that_expectation(linear):
    logits, random = linear["X"] @ linear["theta"]["W"].T, torch.Generator().manual_seed(0)
    drawn = [fisher_information(logits, linear["theta"], "sampled", generator=random)["W"] for _ in range(500)]
    assert_close(torch.stack(drawn).mean(0), linear["fisher_expected"], rtol=0.15, atol=0.02)


@pytest.mark.parametrize("labels", ["expected", "sampled"])
def test_voxels_are_an_unbiased_estimate_of_the_sum_over_all_label_maps(labels):
    torch.manual_seed(0)
    image, layer = torch.randn(1, 1, 3), nn.Conv1d(1, 2, 2).double()
    logits = layer(image.double())  # two voxels of two classes: four label maps
    theta = dict(layer.named_parameters())
    exact = torch.zeros_like(layer.weight)
    for one, other in itertools.product(range(2), repeat=2):
        log_p = logits.log_softmax(1)[0, [one, other], [0, 1]]
        (gradient,) = torch.autograd.grad(log_p.mean(), layer.weight, retain_graph=True)
        exact += log_p.sum().exp().detach() * gradient**2
    random = torch.Generator().manual_seed(0)
    found = [fisher_information(logits, theta, labels, generator=random)["weight"] for _ in range(400)]
    assert_close(torch.stack(found).mean(0), exact, rtol=0.1, atol=0)


def test_agrees_with_finite_differences():
    torch.manual_seed(0)
    images, labels = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0, 2, 1])
    layer = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    found = fisher_information(layer(images), dict(layer.named_parameters()), labels)
    for name, i, slope in slopes(layer, lambda m: -cross_entropy(m(images), labels, reduction="none")):
        assert_close(found[name].view(-1)[i], slope.square().mean(), rtol=1e-5, atol=1e-10)


def test_heads_are_independent_and_a_sigmoid_is_a_head_of_two():
    torch.manual_seed(0)
    w = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 3, dtype=torch.float64)
    logits = x @ w.T
    whole = fisher_information(logits, {"w": w}, heads=[[0, 1], [2, 3, 4]])["w"]
    parts = [fisher_information(logits[:, head], {"w": w})["w"] for head in ([0, 1], [2, 3, 4])]
    assert_close(whole, parts[0] + parts[1])
    binary = fisher_information(logits[:, :1], {"w": w}, heads="sigmoid")["w"]
    as_two = torch.cat([logits[:, :1], torch.zeros_like(logits[:, :1])], 1)
    assert_close(binary, fisher_information(as_two, {"w": w})["w"])


def test_what_has_no_part_in_the_logits_is_not_important():
    w, unused = torch.randn(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)
    found = fisher_information(torch.randn(5, 3) @ w.T, {"w": w, "unused": unused})
    assert torch.equal(found["unused"], torch.zeros(4))
    assert (found["w"] > 0).all()


def test_refuses_what_it_cannot_measure():
    logits = torch.zeros(1, 4, requires_grad=True)
    with pytest.raises(ValueError, match="at least one tensor"):
        fisher_information(logits, {})
    with pytest.raises(ValueError, match=r"`labels` of one head are given for 2.*'expected'"):
        fisher_information(logits, {"z": logits}, torch.zeros(1), heads=[[0, 1], [2, 3]])
