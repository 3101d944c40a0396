"""Reptile: the direction in which plain gradient descent on one task leads."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_continual.methods.meta.inner_loop import Loss, Rates, differentiate, require_finite
from lit_continual.methods.meta.meta_gradient import Task


def reptile_gradient(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    task: Task,
    inner_lr: Rates,
    inner_steps: int = 1,
    scale: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor | None]]:
    r"""Return the last loss and Reptile's meta-gradient of one task :math:`(D, D')`.

    .. math:: g = (\theta - \tilde\theta) / \alpha = \sum_{k=0}^{K} \nabla L(\theta_k; D_k), \qquad
        \theta_{k+1} = \theta_k - \alpha \nabla L(\theta_k; D_k)

    The first :math:`K` steps are on :math:`D` and the last one on :math:`D'`, so that Reptile sees the same data and
    evaluates as many gradients as MAML with :math:`K` inner steps. The sum is taken directly, so :math:`\alpha` may
    be zero.

    Args:
        loss: Maps parameters by name and a batch to a scalar.
        parameters: :math:`\theta` by name.
        task: The pair of batches :math:`(D, D')`.
        inner_lr: :math:`\alpha`, one for all or by name; a name that is missing stays where it is.
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
    total: dict[str, Tensor | None] = dict.fromkeys(parameters)
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
