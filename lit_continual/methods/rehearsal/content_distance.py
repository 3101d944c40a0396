"""Content distance: how far apart two images are for the filters of a network."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_continual.metrics.exact import exact_device, in_float64

Reduction = Literal["mean", "sum", "layer_mean"]

#: Activations that are multiplied at once in float32; their sums are added up in float64.
CHUNK = 2**13
#: Distances below this part of the squared norms are computed from the differences.
CLOSE = 1e-2


@torch.no_grad()
def content_distance(
    activations_a: Sequence[Tensor], activations_b: Sequence[Tensor], reduction: Reduction = "mean"
) -> Tensor:
    r"""Squared differences between the activations of each image in ``a`` and each in ``b``.

    .. math:: d_{ij} = \sum_{l} w_l \sum_{f, p} \bigl(R^{l,f}_p(I_i) - R^{l,f}_p(I_j)\bigr)^2

    over the layers :math:`l`, their filters :math:`f` and pixels :math:`p`. The weight :math:`w_l` is one over the
    number of pixels of the layer (``"mean"``), 1 (``"sum"``, eq. 3 to the letter, in which the largest maps decide),
    or one over its pixels times filters (``"layer_mean"``, so that layers of many filters do not decide).

    Args:
        activations_a: For each layer ``(n_a, C, H, W)``, or with any number of spatial axes.
        activations_b: For each layer ``(n_b, C, H, W)``, of the same layers.
        reduction: What the squares are averaged over; what remains is summed.

    Returns:
        ``(n_a, n_b)`` in the dtype of the activations, at least float32, never negative, and 0 for equal activations.
        No gradient.

    Raises:
        ValueError: If the two lists or the shapes of a layer do not match, or ``reduction`` is unknown.

    References:
        Ozdemir et al. Learn the New, Keep the Old: Extending Pretrained Models with New Anatomy and Images. MICCAI
        2018, eq. 3; "mean squared" in its text, whose mean is here taken over pixels.

    Example:
        >>> zero, two = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 2.0)
        >>> content_distance([zero], [zero, two][:1]), content_distance([zero], [two])
        (tensor([[0.]]), tensor([[12.]]))
    """
    if len(activations_a) != len(activations_b) or not len(activations_a):
        raise ValueError(
            f"`activations_a` has {len(activations_a)} layers and `activations_b` {len(activations_b)}; give both from"
            " the same layers, at least one."
        )
    total: Tensor | None = None
    for layer, (a, b) in enumerate(zip(activations_a, activations_b, strict=True)):
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                f"Layer {layer} has activations of shape {tuple(a.shape[1:])} in `activations_a` and"
                f" {tuple(b.shape[1:])} in `activations_b`; resample the images to one size."
            )
        term = pairwise_squared_distance(a, b) * layer_weight(a, reduction)
        total = term if total is None else total + term
    assert total is not None
    return total.to(torch.promote_types(activations_a[0].dtype, torch.float32))


def layer_weight(activations: Tensor, reduction: Reduction = "mean") -> float:
    """Return the weight of a layer with ``activations`` ``(n, C, H, W)`` in the content distance.

    Example:
        >>> layer_weight(torch.zeros(1, 3, 2, 2), "mean"), layer_weight(torch.zeros(1, 1, 2, 2), "layer_mean")
        (0.25, 0.25)
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"`reduction` must be one of {get_args(Reduction)}, got {reduction!r}.")
    pixels = max(activations[0, 0].numel() if len(activations) else 1, 1)
    return {"mean": 1 / pixels, "sum": 1.0, "layer_mean": 1 / (pixels * max(activations.shape[1], 1))}[reduction]


def squared_norms(activations: Tensor) -> Tensor:
    """Return the squared norm of each sample of ``(n, ...)``, float64 ``(n,)``.

    Example:
        >>> squared_norms(torch.tensor([[3.0, 4.0]]))
        tensor([25.], dtype=torch.float64)
    """
    parts = activations.flatten(1).split(CHUNK, dim=1)
    squares = [in_float64(part.to(_working(part)).square().sum(1)) for part in parts]
    return torch.stack(squares).sum(0) if squares else in_float64(activations.new_zeros(len(activations)))


def pairwise_squared_distance(
    a: Tensor, b: Tensor, b_squared: Tensor | None = None, centre: Tensor | None = None
) -> Tensor:
    r"""Squared Euclidean distances between the samples of ``a`` and ``b``, by :math:`|a|^2 + |b|^2 - 2 a \cdot b`.

    Where that difference loses its digits, for samples that are close to each other, it is computed from
    :math:`a - b` instead, one pair at a time: no temporary is larger than one sample. Of one tensor given as both, each
    sample is at distance 0 from itself.

    Args:
        a: ``(n_a, ...)``.
        b: ``(n_b, ...)``.
        b_squared: :func:`squared_norms` of ``b`` where they are known.
        centre: ``(...)``, subtracted from ``a`` on the way, where ``b`` comes without it.

    Returns:
        ``(n_a, n_b)``, float64.

    Example:
        >>> pairwise_squared_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.]], dtype=torch.float64)
    """
    same = a is b and centre is None
    a, b = a.flatten(1), b.flatten(1)
    shift = a.new_zeros(a.shape[1]) if centre is None else centre.flatten()
    product = torch.zeros(len(a), len(b), dtype=torch.float64, device=exact_device(a.device))
    a_squared = product.new_zeros(len(a))
    for x, y, middle in zip(a.split(CHUNK, dim=1), b.split(CHUNK, dim=1), shift.split(CHUNK), strict=True):
        x = x.to(_working(x)) - middle
        product += in_float64(x @ y.to(_working(y)).T)
        a_squared += in_float64(x.square().sum(1))
    norms = a_squared[:, None] + (squared_norms(b) if b_squared is None else b_squared)
    distance = norms - 2 * product
    if same:
        distance.fill_diagonal_(torch.inf)  # known: no digits to save there
    for i, j in (distance <= CLOSE * norms).nonzero().tolist():
        difference = a[i].to(_working(a)) - shift - b[j].to(_working(b))
        distance[i, j] = squared_norms(difference[None])[0]
    return distance.fill_diagonal_(0) if same else distance


def _working(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
