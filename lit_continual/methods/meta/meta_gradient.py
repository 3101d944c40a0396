"""What one task says of the parameters before adaptation, as MAML and Reptile have it."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lit_continual.methods.meta.inner_loop import (
    Gradients,
    Loss,
    Rates,
    Tensors,
    adapt,
    differentiate,
    require_finite,
)

Task = tuple[Any, Any]
TaskGradient = tuple[Tensor, Gradients]


def task_gradient(
    loss: Loss,
    parameters: Tensors,
    task: Task,
    inner_lr: Rates,
    order: int = 2,
    inner_steps: int = 1,
    scale: float = 1.0,
    leaves: Tensors | None = None,
) -> TaskGradient:
    r"""Return :math:`L(\theta'; D')`, detached, and its gradient, for one task :math:`(D, D')`.

    Args:
        loss: See :func:`adapt`.
        parameters: :math:`\theta`; each must require gradients.
        task: The pair of batches :math:`(D, D')`.
        inner_lr: See :func:`adapt`.
        order: See :func:`adapt`.
        inner_steps: See :func:`adapt`.
        scale: The outer loss is multiplied by it and its gradient divided. The inner loss gets its square root: the
            second derivative passes through the inner loss twice, once scaled and once divided.
        leaves: What to differentiate by; ``parameters`` if ``None``. May add the tensors behind ``inner_lr``.

    Returns:
        The outer loss, and for each name of ``leaves`` its gradient, or ``None`` where the loss does not depend on it.

    Example:
        >>> w = {"w": torch.tensor(1.0, requires_grad=True)}
        >>> task_gradient(lambda p, x: (x * p["w"]).square(), w, (2.0, 1.0), inner_lr=0.1)
        (tensor(0.0400), {'w': tensor(0.0800)})
    """
    inner, outer = task
    with torch.enable_grad():
        value = loss(adapt(loss, parameters, inner, inner_lr, order, inner_steps, scale**0.5), outer)
        if scale == 1.0:
            require_finite(value, "outer loss")
        gradients = differentiate(value * scale, parameters if leaves is None else leaves)
    return value.detach(), {name: None if g is None else g / scale for name, g in gradients.items()}


def reptile_gradient(
    loss: Loss,
    parameters: Tensors,
    task: Task,
    inner_lr: Rates,
    inner_steps: int = 1,
    scale: float = 1.0,
) -> TaskGradient:
    r"""Return the last loss and Reptile's meta-gradient of one task :math:`(D, D')`.

    .. math:: g = (\theta - \tilde\theta) / \alpha = \sum_{k=0}^{K} \nabla L(\theta_k; D_k), \qquad
        \theta_{k+1} = \theta_k - \alpha \nabla L(\theta_k; D_k)

    The first :math:`K` steps are on :math:`D` and the last one on :math:`D'`, so that Reptile sees the same data and
    evaluates as many gradients as MAML with :math:`K` inner steps. The sum is taken directly, so :math:`\alpha` may
    be zero.

    Args:
        loss: See :func:`adapt`.
        parameters: :math:`\theta` by name.
        task: The pair of batches :math:`(D, D')`.
        inner_lr: See :func:`adapt`.
        inner_steps: :math:`K`.
        scale: Every loss is multiplied by it and its gradient divided, against underflow in half precision.

    Returns:
        The loss on :math:`D'`, and the gradient by name, ``None`` where no loss depends on the parameter.

    Raises:
        ValueError: If a loss is not finite; with ``scale`` other than 1 only the first is looked at.

    References:
        Nichol, Achiam and Schulman. On First-Order Meta-Learning Algorithms. 2018, section 2 and eq. 22.
        https://arxiv.org/abs/1803.02999

    Example:
        >>> w, square = {"w": torch.tensor(1.0)}, lambda p, x: (x * p["w"]).square()
        >>> reptile_gradient(square, w, (2.0, 1.0), inner_lr=0.1)
        (tensor(0.0400), {'w': tensor(8.4000)})
    """
    rates = inner_lr if isinstance(inner_lr, Mapping) else dict.fromkeys(parameters, inner_lr)
    fast = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    total: Gradients = dict.fromkeys(parameters)
    inner, outer = task
    for step, batch in enumerate([*[inner] * inner_steps, outer]):
        with torch.enable_grad():
            value = loss(fast, batch)
            if step == 0 or scale == 1.0:
                require_finite(value, f"loss at step {step + 1} of {inner_steps + 1}")
            gradients = differentiate(value * scale, fast)
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            gradient = gradient / scale
            total[name] = gradient if (so_far := total[name]) is None else so_far + gradient
            fast[name] = (fast[name] - rates.get(name, 0.0) * gradient).detach().requires_grad_()
    return value.detach(), total


def meta_gradient(
    loss: Loss,
    parameters: Tensors,
    tasks: Iterable[Task],
    inner_lr: Rates,
    order: int = 2,
    reduction: str = "sum",
    inner_steps: int = 1,
) -> dict[str, Tensor]:
    r"""Return the meta-gradient of MAML over tasks, each adapted from the same :math:`\theta`.

    .. math:: \nabla_\theta \sum_i L_i\bigl(\theta - \alpha \nabla_\theta L_i(\theta; D_i); D'_i\bigr)

    Tasks are differentiated one after another, so no more than the graph of one task is held at a time. Neither
    ``parameters`` nor their ``.grad`` change. With order 1 the inner gradient counts as a constant (FOMAML).

    Args:
        loss: Maps parameters by name and a batch to a scalar, for instance through ``torch.func.functional_call``.
        parameters: :math:`\theta` by name.
        tasks: Pairs ``(inner, outer)`` of the batches :math:`D_i` and :math:`D'_i`, in whatever form ``loss`` takes.
        inner_lr: :math:`\alpha`, one for all parameters or by name; a name that is missing is not adapted.
        order: 2 for the exact gradient, 1 for the first-order approximation.
        reduction: ``"sum"`` over the tasks as in the paper's Algorithm 1, or ``"mean"`` as in MAML's code.
        inner_steps: Steps of gradient descent in a task, all on its :math:`D_i`.

    Returns:
        The gradient by name, zero where the loss does not depend on a parameter.

    Raises:
        ValueError: If an argument is out of range, there is no task, or a loss is not finite.
        NotImplementedError: If ``order`` is 2 and an operation of the loss has no second derivative.

    References:
        Han et al. Learning to Learn Unlearned Feature for Brain Tumor Segmentation. 2018, Algorithm 1.
        Finn, Abbeel and Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017, eq. 1.

    Example:
        >>> w, square = {"w": torch.tensor(1.0)}, lambda p, x: (x * p["w"]).square()
        >>> meta_gradient(square, w, [(2.0, 1.0)], inner_lr=0.1)
        {'w': tensor(0.0800)}
        >>> meta_gradient(square, w, [(2.0, 1.0)], inner_lr=0.1, order=1)
        {'w': tensor(0.4000)}
    """
    check_options(inner_lr, order, reduction, inner_steps)
    theta = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    if isinstance(inner_lr, Mapping) and (unknown := sorted(set(inner_lr) - set(theta))):
        raise ValueError(f"`inner_lr` names {unknown}, which are not in `parameters`: use names of {sorted(theta)}.")
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in theta.items()}
    count = 0
    for task in tasks:
        _, gradients = task_gradient(loss, theta, task, inner_lr, order, inner_steps)
        for name, gradient in gradients.items():
            if gradient is not None:
                total[name] += gradient
        count += 1
    if count == 0:
        raise ValueError("`tasks` is empty: a meta-gradient needs at least one pair of an inner and an outer batch.")
    return {name: g / count for name, g in total.items()} if reduction == "mean" else total


def check_options(inner_lr: Rates, order: int, reduction: str, inner_steps: int) -> None:
    """Raise ``ValueError`` for an option of the meta-gradient that is out of range."""
    for rate in inner_lr.values() if isinstance(inner_lr, Mapping) else [inner_lr]:
        if not isinstance(rate, Tensor) and not rate >= 0:
            raise ValueError(f"`inner_lr` must not be negative, got {rate}.")
    if order not in (1, 2):
        raise ValueError(f"`order` must be 1 or 2, got {order}.")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"`reduction` must be 'sum' or 'mean', got {reduction!r}.")
    if inner_steps < 1:
        raise ValueError(f"`inner_steps` must be at least 1, got {inner_steps}.")
