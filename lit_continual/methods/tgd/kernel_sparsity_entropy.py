"""Kernel sparsity and entropy: how much a convolution relies on each of its input channels."""

import math

import torch
from torch import Tensor

from lit_continual.metrics.exact import in_float64

#: Pairwise distances held at once, in elements of 8 bytes: 8 MiB, whatever the layer, which stays near the cache.
_CHUNK = 2**20


def kernel_sparsity_entropy(weight: Tensor, k: int = 5, alpha: float = 1.0, transposed: bool = False) -> Tensor:
    r"""Score each input channel of a convolution by its kernels' sparsity and entropy.

    .. math::
        s_c = \sum_n \lVert W_{n,c} \rVert_1, \quad
        e_c = -\sum_n \frac{d_{n,c}}{\sum_m d_{m,c}} \log_2 \frac{d_{n,c}}{\sum_m d_{m,c}}, \quad
        \mathrm{KSE}_c = \sqrt{\frac{s_c}{1 + \alpha e_c}}

    with :math:`d_{n,c}` the sum of the Euclidean distances from :math:`W_{n,c}` to its ``k`` nearest others. ``s``,
    ``e`` and the result are each min-max normalised within the layer. Nothing is ever nan: a channel whose kernels are
    all the same has the entropy of equal shares, :math:`\log_2 N`; ``e`` that is constant counts as 0; ``s`` or a
    result that is constant counts as 1, or as 0 where the whole layer is 0.

    Args:
        weight: ``(N, C_in, *kernel)`` with one to three kernel dimensions; ``(C_in, N, *kernel)`` if ``transposed``.
            A grouped convolution's weight cannot be distinguished from an ordinary one: do not pass it.
        k: Nearest neighbours, at least 1; all the others where there are fewer.
        alpha: :math:`\alpha \ge 0`, the weight of the entropy.
        transposed: Whether the weight is a transposed convolution's.

    Returns:
        ``(C_in,)`` scores in [0, 1], float64. A low score means that the network hardly uses the channel.

    Raises:
        ValueError: If the weight has no kernel dimension or more than three, is empty, complex or integer or not
            finite, or if ``k`` or ``alpha`` is out of range.

    References:
        Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, eqs. 1-3; Li et al. Exploiting kernel sparsity
        and entropy for interpretable CNN compression. CVPR 2019.

    Example:
        >>> weight = torch.tensor([[1.0, 0.0], [3.0, 1.0]])[..., None]  # two kernels of length 1 on two channels
        >>> kernel_sparsity_entropy(weight)
        tensor([1., 0.], dtype=torch.float64)
    """
    _check(weight, k, alpha)
    kernels = in_float64((weight if transposed else weight.transpose(0, 1)).detach()).flatten(2)  # (C_in, N, kernel)
    sparsity = kernels.abs().sum((1, 2))
    chunk = max(1, _CHUNK // kernels.shape[1] ** 2)
    entropy = torch.cat([_entropy(part, k) for part in torch.split(kernels, chunk)])
    score = (_normalise(sparsity, 1.0) / (1 + alpha * _normalise(entropy, 0.0))).sqrt()
    return _normalise(score, 1.0)


def _check(weight: Tensor, k: int, alpha: float) -> None:
    if weight.ndim not in (3, 4, 5) or weight.numel() == 0 or not weight.is_floating_point():
        raise ValueError(
            f"`weight` must be a non-empty float tensor (N, C_in, *kernel) with one to three kernel dimensions, got"
            f" {weight.dtype} of shape {tuple(weight.shape)}."
        )
    if not torch.isfinite(weight).all():
        raise ValueError(f"`weight` of shape {tuple(weight.shape)} holds nan or inf: start from a sound checkpoint.")
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}: the paper takes 5.")
    if not 0 <= alpha < math.inf:
        raise ValueError(f"`alpha` must be a number of 0 or more, got {alpha}: the paper takes 1.")


def _entropy(kernels: Tensor, k: int) -> Tensor:
    """Entropy in bits of the nearest-neighbour density ``(C, N, kernel) -> (C,)``."""
    count = kernels.shape[1]
    nearest = _nearest(kernels, min(k + 1, count))  # itself, at distance 0, and the k others
    others = kernels.gather(1, nearest.flatten(1)[..., None].expand(-1, -1, kernels.shape[2]))
    density = (others.view(*nearest.shape, -1) - kernels.unsqueeze(2)).square().sum(-1).sqrt().sum(-1)
    total = density.sum(-1, keepdim=True)
    share = torch.where(total > 0, density / total, 1 / count)
    entropy: Tensor = torch.special.entr(share).sum(-1)
    return entropy / math.log(2)


def _nearest(kernels: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` nearest kernels, the kernel itself among them, ``(C, N, kernel) -> (C, N, k)``.

    A matrix product ranks them, several times faster than exact distances, which are taken of the winners only: equal
    kernels are then at distance 0 exactly. Centring keeps the product's rounding to the size of the spread.
    """
    centred = kernels - kernels.mean(1, keepdim=True)
    squared = centred.square().sum(-1, keepdim=True)
    left = torch.cat([torch.ones_like(squared), -2 * centred], -1)
    right = torch.cat([squared, centred], -1)
    distance = left @ right.transpose(1, 2)  # less the row's own square, which does not change its order
    distance.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    return distance.topk(k, dim=-1, largest=False, sorted=False).indices


def _normalise(values: Tensor, constant: float) -> Tensor:
    """Min-max normalise, with ``constant`` where all values are the same and not 0; equality is up to rounding."""
    low, high = values.min(), values.max()
    if high - low > 1e-9 * high:
        return (values - low) / (high - low)
    return torch.full_like(values, constant if high > 0 else 0.0)
