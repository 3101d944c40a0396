"""The penalty of weighted squared distances that EWC, MAS, SI and RWalk share."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_continual.methods.bases.anchor import matched

Named = Mapping[str, Tensor]


def importance_penalty(parameters: Named, anchor: Named, importance: Named, strength: float) -> Tensor:
    r"""Squared distance to the anchor, weighted, :math:`\lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2`.

    Args:
        parameters: :math:`\theta` by name.
        anchor: :math:`\theta^*` under the same names, with the same shapes.
        importance: :math:`\Omega` under the same names, with the same shapes.
        strength: :math:`\lambda`. EWC writes :math:`\lambda/2` for it.

    Returns:
        Scalar tensor, differentiable in ``parameters``.

    Raises:
        ValueError: If the names or the shapes differ, or there are none.

    Example:
        >>> theta, omega = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([1.0, 0.5])}
        >>> importance_penalty(theta, {"w": torch.zeros(2)}, omega, strength=2.0)
        tensor(34.)
    """
    values, anchors = matched(parameters, anchor)
    _, weights = matched(parameters, importance)
    terms = [(w * (v - a).square()).sum() for v, a, w in zip(values, anchors, weights, strict=True)]
    return strength * torch.stack(terms).sum()


@torch.no_grad()
def importance_penalty_gradient(
    parameters: Named, anchor: Named, importance: Named, strength: float
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Penalty of :func:`importance_penalty` and its gradient :math:`2\lambda\Omega(\theta - \theta^*)`, with no graph.

    Args:
        parameters: :math:`\theta` by name.
        anchor: :math:`\theta^*` under the same names, with the same shapes.
        importance: :math:`\Omega` under the same names, with the same shapes.
        strength: :math:`\lambda`.

    Returns:
        The penalty, a scalar tensor, and the gradient by name.

    Raises:
        ValueError: If the names or the shapes differ, or there are none.

    Example:
        >>> theta, omega = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([1.0, 0.5])}
        >>> importance_penalty_gradient(theta, {"w": torch.zeros(2)}, omega, strength=2.0)
        (tensor(34.), {'w': tensor([12.,  8.])})
    """
    values, anchors = matched(parameters, anchor)
    _, weights = matched(parameters, importance)
    total, weighted = weighted_differences(values, anchors, weights)
    torch._foreach_mul_(weighted, 2.0 * strength)
    return strength * total, dict(zip(parameters, weighted, strict=True))


@torch.no_grad()
def weighted_differences(
    values: Sequence[Tensor], anchors: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    r"""Return :math:`\sum_i \Omega_i (\theta_i - \theta^*_i)^2`, and half its gradient.

    Example:
        >>> weighted_differences([torch.tensor([3.0, 4.0])], [torch.ones(2)], [torch.ones(2)])
        (tensor(13.), [tensor([2., 3.])])
    """
    differences = torch._foreach_sub([*values], [*anchors])
    weighted = torch._foreach_mul(differences, [*weights])
    pairs = zip(differences, weighted, strict=True)  # of weights in half precision the latter are in a wider one
    terms = [torch.linalg.vecdot(d.flatten().to(w.dtype), w.flatten()) for d, w in pairs]
    return torch.stack(terms).sum(), list(weighted)


def sum_of_penalties(
    anchor: Named, importance: Named, new_anchor: Named, new_importance: Named
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    r"""One penalty that is the sum of two, up to a constant, at every :math:`\theta`.

    .. math:: a(\theta - \alpha)^2 + b(\theta - \beta)^2 = (a + b)(\theta - \gamma)^2 + c, \qquad
        \gamma = \alpha + \frac{b}{a + b}(\beta - \alpha), \quad c = \frac{ab}{a + b}(\alpha - \beta)^2

    Args:
        anchor: :math:`\alpha` by name.
        importance: :math:`a`, not negative, under the same names.
        new_anchor: :math:`\beta`, which may have more names, where the first penalty has none.
        new_importance: :math:`b` under the names of ``new_anchor``.

    Returns:
        :math:`\gamma` and :math:`a + b` by name, and the sum of all :math:`c`.

    Example:
        >>> one, two = torch.tensor([1.0]), torch.tensor([3.0])
        >>> sum_of_penalties({"w": one}, {"w": one}, {"w": two}, {"w": one})
        ({'w': tensor([2.])}, {'w': tensor([2.])}, 2.0)
    """
    anchors, importances, constant = dict(new_anchor), dict(new_importance), 0.0
    for name, old in anchor.items():
        a, b, difference = importance[name], new_importance[name], new_anchor[name] - old
        importances[name] = a + b
        part = torch.where(a > 0, b / (a + b), 1.0)  # where nothing was important, the new anchor
        anchors[name] = old + part * difference
        constant += float((a * part * difference.square()).sum())
    return anchors, importances, constant
