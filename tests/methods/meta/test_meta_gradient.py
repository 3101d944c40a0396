from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d, scaled_dot_product_attention
from torch.testing import assert_close

from lit_continual.functional import adapt, meta_gradient, task_gradient

GOLDEN = {k: torch.from_numpy(v) for k, v in np.load(Path(__file__).parents[2] / "golden" / "maml.npz").items()}
NAMES = ("w1", "b1", "w2", "b2")
ALPHA = GOLDEN["alpha"].item()
ORDERS = {1: "first", 2: "second"}


def unflatten(theta):
    shapes = [tuple(GOLDEN[f"shape{i}"].tolist()) for i in range(4)]
    return {
        n: t.reshape(s) for n, s, t in zip(NAMES, shapes, theta.split([int(np.prod(s)) for s in shapes]), strict=True)
    }


def flatten(named):
    return torch.cat([named[n].flatten() for n in NAMES])


def loss(p, batch):
    hidden = torch.tanh(conv2d(batch[0], p["w1"], p["b1"], padding=1))
    return binary_cross_entropy_with_logits(conv2d(hidden, p["w2"], p["b2"], padding=1), batch[1])


THETA = unflatten(GOLDEN["theta"])
TASKS = [tuple((GOLDEN[f"task{k}/x_{s}"], GOLDEN[f"task{k}/t_{s}"]) for s in ("in", "out")) for k in (0, 1)]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_golden_update(order, reduction):
    gradient = flatten(meta_gradient(loss, THETA, TASKS, ALPHA, order, reduction))
    updated = GOLDEN["theta"] - GOLDEN["beta"] * gradient
    assert_close(updated, GOLDEN[f"theta_new_{ORDERS[order]}_order_{reduction}"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("order", [1, 2])
def test_golden_gradient(order):
    gradient = flatten(meta_gradient(loss, THETA, TASKS, ALPHA, order))
    assert_close(gradient, GOLDEN[f"meta_grad_{ORDERS[order]}_order"], rtol=0, atol=1e-8)
    assert (gradient - GOLDEN[f"meta_grad_{ORDERS[3 - order]}_order"]).abs().max() > 1e-3


@pytest.mark.parametrize("k", [0, 1])
def test_golden_task(k):
    theta = {n: p.clone().requires_grad_() for n, p in THETA.items()}
    fast = adapt(loss, theta, TASKS[k][0], ALPHA)
    value, gradients = task_gradient(loss, theta, TASKS[k], ALPHA)
    assert_close(flatten(fast).detach(), GOLDEN[f"task{k}/theta_prime"], rtol=0, atol=1e-12)
    assert_close(value, GOLDEN[f"task{k}/outer_loss"], rtol=0, atol=1e-12)
    assert_close(flatten(gradients), GOLDEN[f"task{k}/outer_grad_second_order"], rtol=0, atol=1e-8)


def descend(theta, batch, steps, rates):
    fast = {n: p.clone().requires_grad_() for n, p in theta.items()}
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(fast, batch), [*fast.values()])
        moved = {n: p - rates.get(n, 0) * g for (n, p), g in zip(fast.items(), gradients, strict=True)}
        fast = {n: p.detach().requires_grad_() for n, p in moved.items()}
    return fast


def by_hand(theta, steps, rates):
    return sum(loss(descend(unflatten(theta), inner, steps, rates), outer).item() for inner, outer in TASKS)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("adapted", [NAMES, ("w2", "b2")], ids=["all", "head"])
def test_second_order_equals_finite_differences(steps, adapted):
    rates = {n: ALPHA * (1 + i) for i, n in enumerate(adapted)}
    gradient = flatten(meta_gradient(loss, THETA, TASKS, rates, inner_steps=steps))
    for index in range(0, 58, 3):
        offset = torch.zeros(58, dtype=torch.float64)
        offset[index] = 1e-5
        difference = by_hand(GOLDEN["theta"] + offset, steps, rates) - by_hand(GOLDEN["theta"] - offset, steps, rates)
        assert gradient[index].item() == pytest.approx(difference / 2e-5, abs=1e-8)


def test_two_inner_steps_of_first_order_equal_the_gradient_at_the_fast_weights():
    expected = 0
    for inner, outer in TASKS:
        fast = descend(THETA, inner, 2, dict.fromkeys(NAMES, ALPHA))
        expected += torch.cat([g.flatten() for g in torch.autograd.grad(loss(fast, outer), [*fast.values()])])
    assert_close(flatten(meta_gradient(loss, THETA, TASKS, ALPHA, order=1, inner_steps=2)), expected)


@pytest.mark.parametrize("order", [1, 2])
def test_gradient_of_a_learned_rate_equals_finite_differences(order):
    theta = {n: p.clone().requires_grad_() for n, p in THETA.items()}
    rate = torch.tensor(ALPHA, dtype=torch.float64, requires_grad=True)

    def outer_loss(alpha):
        return loss(adapt(loss, theta, TASKS[0][0], alpha), TASKS[0][1]).item()

    rates = dict.fromkeys(theta, rate)
    _, gradients = task_gradient(loss, theta, TASKS[0], rates, order, leaves={**theta, "rate": rate})
    difference = (outer_loss(ALPHA + 1e-5) - outer_loss(ALPHA - 1e-5)) / 2e-5
    assert gradients["rate"].item() == pytest.approx(difference, abs=1e-8)


@pytest.mark.parametrize("order", [1, 2])
def test_the_scale_cancels(order):
    theta = {n: p.clone().requires_grad_() for n, p in THETA.items()}
    plain, scaled = (task_gradient(loss, theta, TASKS[0], ALPHA, order, 2, scale)[1] for scale in (1.0, 2.0**12))
    assert_close(flatten(scaled), flatten(plain))


def test_writes_no_gradient_and_no_parameter():
    theta = {n: torch.nn.Parameter(p.clone()) for n, p in THETA.items()}
    meta_gradient(loss, theta, TASKS, ALPHA)
    assert all(p.grad is None for p in theta.values())
    assert_close({n: p.detach() for n, p in theta.items()}, THETA, rtol=0, atol=0)


def test_a_parameter_without_influence_gets_zero():
    gradient = meta_gradient(loss, {**THETA, "idle": torch.ones(3)}, TASKS, ALPHA)
    assert_close(gradient["idle"], torch.zeros(3), rtol=0, atol=0)
    assert_close(flatten(gradient), GOLDEN["meta_grad_second_order"], rtol=0, atol=1e-8)


def test_adapts_under_no_grad():
    with torch.no_grad():
        fast = adapt(loss, THETA, TASKS[0][0], ALPHA, order=1)
    assert_close(flatten(fast).detach(), GOLDEN["task0/theta_prime"], rtol=0, atol=1e-12)


def test_holds_the_graph_of_one_task_at_a_time():
    def saved_bytes(tasks):
        held = peak = 0

        class Saved:
            def __init__(self, tensor):
                nonlocal held, peak
                self.tensor = tensor
                held += tensor.nbytes
                peak = max(peak, held)

            def __del__(self):
                nonlocal held
                held -= self.tensor.nbytes

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            meta_gradient(loss, THETA, tasks, ALPHA)
        return peak

    assert saved_bytes(TASKS * 4) == saved_bytes(TASKS[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 3}, "`order` must be 1 or 2, got 3"),
        ({"reduction": "max"}, "`reduction` must be 'sum' or 'mean', got 'max'"),
        ({"inner_steps": 0}, "`inner_steps` must be at least 1, got 0"),
        ({"inner_lr": -1.0}, r"`inner_lr` must not be negative, got -1\.0"),
        ({"inner_lr": {"w9": 0.1}}, r"`inner_lr` names \['w9'\], which are not in `parameters`"),
        ({"tasks": []}, "`tasks` is empty"),
    ],
)
def test_names_a_bad_argument(options, message):
    with pytest.raises(ValueError, match=message):
        meta_gradient(**{"loss": loss, "parameters": THETA, "tasks": TASKS, "inner_lr": ALPHA, **options})


def test_names_the_loss_that_is_not_finite():
    bad = (TASKS[0][0][0] * torch.nan, TASKS[0][0][1])
    with pytest.raises(ValueError, match="inner loss at step 1 of 2 is nan"):
        meta_gradient(loss, THETA, [(bad, TASKS[0][1])], ALPHA, inner_steps=2)
    with pytest.raises(ValueError, match="outer loss is nan"):
        meta_gradient(loss, THETA, [(TASKS[0][0], bad)], ALPHA)


def test_names_a_loss_without_parameters():
    with pytest.raises(ValueError, match="depends on no parameter"):
        meta_gradient(lambda p, batch: loss(p, batch).detach(), THETA, TASKS, ALPHA)


def test_names_an_operation_without_second_derivative():
    def attention(p, batch):
        return scaled_dot_product_attention(p["w"], p["w"], batch).sum()

    theta, batch = {"w": torch.ones(1, 1, 4, 8)}, torch.arange(32.0).reshape(1, 1, 4, 8)
    tasks = [(batch, batch)]
    assert set(meta_gradient(attention, theta, tasks, 0.1, order=1)) == {"w"}
    with pytest.raises(NotImplementedError, match=r"no second derivative.*use first order"):
        meta_gradient(attention, theta, tasks, 0.1)
