import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_continual.functional import l2_sp, l2_sp_gradient, l2_sp_proximal_

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "l2sp.npz")


def group(prefix, startswith="", keep=lambda tensor: True):
    tensors = {k.removeprefix(prefix): torch.from_numpy(GOLDEN[k]) for k in GOLDEN if k.startswith(prefix)}
    return {name: t.clone() for name, t in tensors.items() if name.startswith(startswith) and keep(t)}


MODES = {
    # mode: strength on the encoder, strength towards zero on the rest, which tensors count
    "sagie_all": (8.0, 0.0, lambda t: True),
    "sagie_weights": (8.0, 0.0, lambda t: t.ndim > 1),
    "li_mode1": (0.05, 0.005, lambda t: t.ndim > 1),
    "li_mode101": (0.05, 0.005, lambda t: True),
}


@pytest.mark.parametrize("mode", MODES)
def test_golden_penalty_and_gradients(mode):
    strength, rest_strength, keep = MODES[mode]
    theta, anchor = group("theta/", keep=keep), group("theta0/", keep=keep)
    theta = {name: t.requires_grad_() for name, t in theta.items()}
    encoder = {name: t for name, t in theta.items() if name.startswith("encoder")}
    rest = {name: t for name, t in theta.items() if name not in encoder}
    zeros = {name: torch.zeros_like(t) for name, t in rest.items()}

    penalty = l2_sp(encoder, {name: anchor[name] for name in encoder}, strength) + l2_sp(rest, zeros, rest_strength)
    penalty.backward()

    assert_close(penalty.item(), GOLDEN[f"{mode}/penalty"].item(), rtol=1e-12, atol=0)
    for name, expected in group(f"{mode}/grad/").items():
        got = theta[name].grad if name in theta else torch.zeros_like(expected)
        assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_closed_form_equals_autograd_and_keeps_no_graph():
    theta = {name: t.requires_grad_() for name, t in group("theta/", "encoder").items()}
    anchor = group("theta0/", "encoder")
    by_autograd = l2_sp(theta, anchor, 3.0)
    expected = torch.autograd.grad(by_autograd, list(theta.values()))
    penalty, gradient = l2_sp_gradient(theta, anchor, 3.0)
    assert not penalty.requires_grad
    assert_close(penalty, by_autograd.detach())
    assert_close(list(gradient.values()), list(expected))


def test_gradient_agrees_with_finite_differences():
    torch.manual_seed(0)
    theta, anchor = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: l2_sp({"w": t}, {"w": anchor}, 0.7), theta)


def test_gradient_at_the_anchor_is_zero_not_nan():
    theta = torch.ones(5, requires_grad=True)
    l2_sp({"w": theta}, {"w": torch.ones(5)}, 8.0).backward()
    assert torch.equal(theta.grad, torch.zeros(5))


def test_explicit_step_of_plain_descent_is_golden():
    theta, anchor, lr = group("theta/", "encoder"), group("theta0/", "encoder"), GOLDEN["sgd/lr"].item()
    _, gradient = l2_sp_gradient(theta, anchor, 8.0)
    for name, expected in group("sgd/theta1/").items():
        assert_close(theta[name] - lr * gradient[name], expected, rtol=1e-12, atol=0)


def test_proximal_step_is_golden():
    theta, anchor = group("theta/", "encoder"), group("theta0/", "encoder")
    l2_sp_proximal_(theta, anchor, 8.0, GOLDEN["sgd/lr"].item())
    for name, expected in group("prox/theta1/").items():
        assert_close(theta[name], expected, rtol=1e-12, atol=1e-14)


def test_proximal_step_minimises_its_objective():
    torch.manual_seed(0)
    stepped, anchor, strength, lr = torch.randn(6).double(), torch.randn(6).double(), 2.0, 0.3
    theta = {"w": stepped.clone()}
    l2_sp_proximal_(theta, {"w": anchor}, strength, lr)
    x = theta["w"].requires_grad_()
    objective = (x - stepped).square().sum() / (2 * lr) + strength * (x - anchor).square().sum()
    (slope,) = torch.autograd.grad(objective, x)
    assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)


def test_proximal_step_ends_of_the_range():
    theta, anchor = torch.tensor([0.1, 0.7]), torch.tensor([0.3, -0.2])
    untouched, held = {"w": theta.clone()}, {"w": theta.clone()}
    l2_sp_proximal_(untouched, {"w": anchor}, 0.0, 0.1)
    l2_sp_proximal_(held, {"w": anchor}, math.inf, 0.1)
    assert torch.equal(untouched["w"], theta)
    assert torch.equal(held["w"], anchor)


@pytest.mark.parametrize("function", [l2_sp, l2_sp_gradient])
def test_rejects_what_does_not_match(function):
    w = {"encoder.w": torch.ones(2)}
    with pytest.raises(ValueError, match=r"same names.*decoder\.w, encoder\.w"):
        function(w, {"decoder.w": torch.ones(2)}, 1.0)
    with pytest.raises(ValueError, match=r"`encoder\.w` has shape \(2,\), and its anchor \(3,\)"):
        function(w, {"encoder.w": torch.ones(3)}, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        function({}, {}, 1.0)
    with pytest.raises(ValueError, match=r"`strength` must be 0 or more and finite, got -1\.0"):
        function(w, w, -1.0)
    with pytest.raises(ValueError, match="got inf"):
        function(w, w, math.inf)


def test_proximal_step_rejects_a_negative_strength():
    with pytest.raises(ValueError, match="`strength` must be 0 or more, got -2"):
        l2_sp_proximal_({"w": torch.ones(1)}, {"w": torch.ones(1)}, -2, 0.1)
