"""The inner loop of meta-learning: a few steps of gradient descent on one task, in the graph."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Gradients = dict[str, Tensor | None]
Loss = Callable[[dict[str, Tensor], Any], Tensor]
Rates = float | Mapping[str, float | Tensor]


def adapt(
    loss: Loss,
    parameters: Tensors,
    batch: Any,
    inner_lr: Rates,
    order: int = 2,
    inner_steps: int = 1,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    r"""Return the fast weights of one task, in the graph of ``parameters``.

    .. math:: \theta_{k+1} = \theta_k - \alpha \nabla_{\theta_k} L(\theta_k; D), \qquad \theta_0 = \theta

    Nothing is written: neither ``parameters`` nor their ``.grad``. Gradients are on inside, also under ``no_grad``.

    Args:
        loss: Maps parameters by name and a batch to a scalar.
        parameters: :math:`\theta` by name.
        batch: :math:`D`. All steps use it.
        inner_lr: :math:`\alpha`, one for all or by name. **A name that is missing is not adapted.** A tensor may
            require gradients.
        order: 2 keeps the graph of the inner gradients, 1 takes them for constants.
        inner_steps: Number of steps on the same batch.
        scale: The inner loss is multiplied by it before it is differentiated, and its gradient divided, so that
            half-precision activations do not underflow. 1 in full precision.

    Raises:
        ValueError: If an inner loss is not finite. With ``scale`` other than 1 only the first is looked at: later
            ones overflow where the scale was too high, which a gradient scaler notices and mends.
        NotImplementedError: If ``order`` is 2 and an operation of the loss has no second derivative.

    References:
        Finn, Abbeel and Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017, eq. 1.

    Example:
        >>> w = {"w": torch.tensor(1.0, requires_grad=True)}
        >>> adapt(lambda p, x: (x * p["w"]).square(), w, 2.0, inner_lr=0.1)
        {'w': tensor(0.2000, grad_fn=<SubBackward0>)}
    """
    rates = inner_lr if isinstance(inner_lr, Mapping) else dict.fromkeys(parameters, inner_lr)
    fast = dict(parameters)
    with torch.enable_grad():
        # A detached parameter has no gradient to ask for; first order asks for it at a leaf of its own.
        for name in rates:
            fast[name] = fast[name] if fast[name].requires_grad else fast[name].detach().requires_grad_()
        for step in range(inner_steps):
            value = loss(fast, batch)
            if step == 0 or scale == 1.0:
                require_finite(value, f"inner loss at step {step + 1} of {inner_steps}")
            gradients = differentiate(value * scale, {name: fast[name] for name in rates}, create_graph=order == 2)
            for name, gradient in gradients.items():
                if gradient is not None:
                    fast[name] = fast[name] - rates[name] * (gradient / scale)
    return fast


def require_finite(value: Tensor, what: str) -> None:
    """Raise ``ValueError`` if the scalar ``value`` is nan or infinite."""
    if not torch.isfinite(value).all():
        raise ValueError(
            f"The {what} is {value.item()}: look for a batch without valid targets, or lower the inner rate."
        )


def differentiate(value: Tensor, leaves: Tensors, create_graph: bool = False) -> Gradients:
    """Return the gradient of the scalar ``value`` by each leaf, ``None`` where there is none, outside autocast.

    Raises:
        ValueError: If ``value`` depends on no leaf at all.
        NotImplementedError: If an operation on the way has no second derivative.
    """
    if not value.requires_grad:
        raise ValueError("The loss depends on no parameter: it was detached, or computed without gradients.")
    try:
        with torch.autocast(value.device.type, enabled=False):  # the backward pass keeps the types of the forward
            gradients = torch.autograd.grad(value, [*leaves.values()], create_graph=create_graph, allow_unused=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error) and "twice differentiable" not in str(error):
            raise
        raise NotImplementedError(
            f"An operation of the loss has no second derivative ({error}): use first order, or replace the operation."
        ) from error
    return dict(zip(leaves, gradients, strict=True))
