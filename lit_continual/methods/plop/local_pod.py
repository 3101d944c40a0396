"""Local POD: how far two feature maps are apart, by means along each axis in windows of several scales."""

from collections.abc import Sequence
from math import lcm

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lit_continual.methods.bases.fit.precision import full_precision


def local_pod_distance(a: Tensor, b: Tensor, scales: Sequence[int] = (1, 2, 4)) -> Tensor:
    r"""Distance of two feature maps by what is left of them when they are pooled along each axis in windows.

    .. math:: d = \frac{1}{B} \sum_i \lVert \Psi(a_i) - \Psi(b_i) \rVert_2

    For each scale :math:`s` a map is cut into :math:`s` windows along each axis, :math:`s \times s` in 2D and
    :math:`s \times s \times s` in 3D. In each window and for each axis, the squares are averaged over all other
    axes. :math:`\Psi` concatenates all these vectors, of all channels, and is normalised to length 1, so the distance
    lies in [0, √2] whatever the scale of the features. Where a size is not divisible, windows overlap by one voxel.

    Args:
        a: ``(B, C, H, W[, D])``.
        b: Of the same shape.
        scales: :math:`s`, each 1 or more.

    Returns:
        The mean over samples, a scalar; at least in single precision.

    Raises:
        ValueError: If the shapes differ, there is no spatial axis or no scale, or a scale is below 1.

    References:
        Douillard et al. PLOP: Learning without Forgetting for Continual Semantic Segmentation. CVPR 2021, eq. 4 to 7.
        https://arxiv.org/abs/2011.11390

    Example:
        >>> a, b = torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 6)
        >>> a[..., :2, :], b[..., 2:, :] = 1.0, 1.0
        >>> local_pod_distance(a, b, scales=[1]), local_pod_distance(a, 3 * a, scales=[1])
        (tensor(1.0690), tensor(0.))
    """
    if a.shape != b.shape or a.ndim < 3:
        raise ValueError(
            f"Local POD compares maps (B, C, *spatial) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if not scales or min(scales) < 1:
        raise ValueError(f"`scales` must be one or more numbers from 1 on, got {list(scales)}.")
    ours, theirs = (_embedding(full_precision(x).square(), scales) for x in (a, b))
    difference = (ours - theirs).square().sum(1)
    return torch.where(difference > 0, difference, 1.0).sqrt().where(difference > 0, difference).mean()


def _embedding(squares: Tensor, scales: Sequence[int]) -> Tensor:
    # Windows of all scales are made of the smallest where these divide a map, which is read once for an axis then.
    smallest = lcm(*scales)
    nested = all(size % smallest == 0 for size in squares.shape[2:])
    fine = _kept_axes(squares, smallest) if nested else []
    parts = []
    for scale in scales:
        for axis, vectors in enumerate(fine or _kept_axes(squares, scale), 2):
            for other in range(2, squares.ndim) if nested else ():
                vectors = vectors if other == axis else _averaged(vectors, other, scale)
            parts.append(vectors.flatten(1))
    return normalize(torch.cat(parts, 1), dim=1)


def _kept_axes(x: Tensor, scale: int) -> list[Tensor]:
    """For each spatial axis, ``x`` averaged over windows of all others."""
    first, last = 2, x.ndim - 1
    once = {axis: _averaged(x, axis, scale) for axis in (first, last)} if last > first else {}  # reads the whole map
    found = []
    for axis in range(first, x.ndim):
        begun = last if axis != last else first
        vectors = once.get(begun, x)
        for other in range(first, x.ndim):
            if other not in (axis, begun):
                vectors = _averaged(vectors, other, scale)
        found.append(vectors)
    return found


def _averaged(x: Tensor, axis: int, scale: int) -> Tensor:
    """Average an axis over ``scale`` windows; slices and means are deterministic where adaptive pooling is not."""
    size = x.shape[axis]
    if size % scale == 0:
        windows_of_one_size: Tensor = x.unflatten(axis, (scale, -1))
        return windows_of_one_size.mean(axis + 1)
    windows = [(i * size // scale, -(-(i + 1) * size // scale)) for i in range(scale)]
    return torch.cat([x.narrow(axis, start, end - start).mean(axis, keepdim=True) for start, end in windows], axis)
