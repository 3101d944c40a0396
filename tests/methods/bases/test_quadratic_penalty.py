import pytest
import torch
from torch.testing import assert_close

from lit_continual.functional import importance_penalty, importance_penalty_gradient
from lit_continual.methods.bases.importance.quadratic_penalty import sum_of_penalties, weighted_differences


@pytest.fixture
def parts():
    torch.manual_seed(0)
    shapes = {"a": (3, 4), "b": (5,)}
    return [{name: torch.rand(shape, dtype=torch.float64) for name, shape in shapes.items()} for _ in range(5)]


def test_agrees_with_finite_differences_and_the_closed_form_with_autograd(parts):
    theta, anchor, omega = parts[:3]
    assert torch.autograd.gradcheck(
        lambda a: importance_penalty({**theta, "a": a}, anchor, omega, 0.7), theta["a"].clone().requires_grad_()
    )
    leaves = {name: value.requires_grad_() for name, value in theta.items()}
    value = importance_penalty(leaves, anchor, omega, 0.7)
    penalty, gradient = importance_penalty_gradient(leaves, anchor, omega, 0.7)
    assert_close(penalty, value.detach())
    assert_close(list(gradient.values()), list(torch.autograd.grad(value, list(leaves.values()))))


def test_weights_in_half_precision_have_a_penalty_in_single_precision(parts):
    half, anchor = ({name: value.bfloat16() for name, value in part.items()} for part in parts[:2])
    wide, at = ({name: value.float() for name, value in part.items()} for part in (half, anchor))
    importance = {name: value.float() for name, value in parts[2].items()}
    total, _ = weighted_differences(*(list(part.values()) for part in (half, anchor, importance)))
    assert total.dtype == torch.float32
    assert_close(total, importance_penalty(wide, at, importance, 1.0), rtol=2e-2, atol=0)


def test_two_penalties_are_one_at_every_point(parts):
    theta, first, a, second, b = parts
    a["a"][0], b["a"][0], b["a"][1] = 0.0, 0.0, 0.0
    center, weight, constant = sum_of_penalties(first, a, second, b)
    both = importance_penalty(theta, first, a, 1.0) + importance_penalty(theta, second, b, 1.0)
    assert_close(importance_penalty(theta, center, weight, 1.0) + constant, both)
    assert torch.equal(center["a"][0], second["a"][0])  # where nothing was important


def test_refuses_what_does_not_match(parts):
    theta, anchor, omega = parts[:3]
    with pytest.raises(ValueError, match=r"same names.*b is only in one"):
        importance_penalty_gradient(theta, {"a": anchor["a"]}, omega, 1.0)
    with pytest.raises(ValueError, match="`b` has shape"):
        importance_penalty(theta, anchor, {**omega, "b": torch.ones(2)}, 1.0)
