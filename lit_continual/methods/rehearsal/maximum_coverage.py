"""Greedy maximum coverage: the samples that stand best for all others."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

#: Candidates whose gains are computed exactly at once.
BLOCK = 64


def maximum_coverage(similarity: Tensor, k: int, candidates: Sequence[int] | Tensor | None = None) -> list[int]:
    r"""Pick the ``k`` columns that greedily maximise the coverage of all rows.

    .. math:: F(S) = \sum_i \max_{s \in S} \mathrm{sim}_{i, s}

    The empty set covers nothing, :math:`-\infty`, so that the first pick maximises the sum of its column and negative
    similarities, such as negative distances, work. Gains are computed in float64 and exactly; gains that differ by
    less than their rounding error are ties, and a tie goes to the lowest index. The order is prefix-stable: the picks
    of a smaller ``k`` are a prefix of those of a larger one. Stale gains bound later ones from above (submodularity),
    so that few are computed again. Without the matrix: :func:`maximum_coverage_of_features`.

    Args:
        similarity: ``(n, m)``, finite. Row :math:`i` is a sample to cover, column :math:`s` one that may be picked;
            in the square case both are the same samples. A zero vector has cosine 0 with every other.
        k: Number of picks :math:`k_r`. If there are fewer candidates they are all returned, in greedy order; 0 gives
            an empty list.
        candidates: Columns that may be picked, without repetition, in any order. All by default.

    Returns:
        Column indices in the order in which they were picked.

    Raises:
        ValueError: If ``similarity`` is no finite matrix, ``k`` is negative or ``candidates`` is not a set of columns.

    References:
        Ozdemir et al. Learn the New, Keep the Old: Extending Pretrained Models with New Anatomy and Images. MICCAI
        2018, section 2.2. Set coverage as in Yang et al., Suggestive Annotation, MICCAI 2017.

    Example:
        >>> similarity = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> maximum_coverage(similarity, k=2)
        [0, 2]
    """
    if similarity.ndim != 2:
        raise ValueError(f"`similarity` must be a matrix (samples, candidates), got shape {tuple(similarity.shape)}.")
    if not torch.isfinite(similarity).all():
        raise ValueError("`similarity` holds nan or infinite values; drop those samples before picking by coverage.")
    columns = candidate_indices(candidates, similarity.shape[1], similarity.device)
    return list(islice(_picks(similarity, columns), check_budget(k)))


def _picks(similarity: Tensor, columns: Tensor) -> Iterator[int]:
    """Yield candidates in greedy order until there are none left."""
    scale = float(similarity.abs().max()) if similarity.numel() else 0.0
    tolerance = rounding(similarity.shape[0], scale)
    coverage: Tensor | None = None
    upper = torch.full(columns.shape, torch.inf, dtype=torch.float64, device=similarity.device)

    def gains(positions: Tensor) -> Tensor:
        block = similarity[:, columns[positions]].double()
        return block.sum(0) if coverage is None else (block - coverage[:, None]).clamp_min_(0).sum(0)

    for _ in range(len(columns)):
        best = first_of_best(upper, gains, tolerance)
        if coverage is None:
            upper.fill_(torch.inf)  # the sum of a column, from no coverage at all, bounds no later gain
        upper[best] = -torch.inf
        picked = similarity[:, columns[best]].double()
        coverage = picked if coverage is None else torch.maximum(coverage, picked)
        yield int(columns[best])


def first_of_best(upper: Tensor, gains: Callable[[Tensor], Tensor], tolerance: float) -> int:
    r"""Find the first position of the largest gain, computing gains only where their upper bounds ask for it.

    Args:
        upper: ``(m,)`` upper bounds, :math:`-\infty` for what must not be found. Lowered in place to the gains that
            were computed.
        gains: Maps positions ``(b,)`` to their exact gains ``(b,)``.
        tolerance: Gains that differ by no more are ties.

    Returns:
        The lowest position among the ties for the largest gain.

    Example:
        >>> values = torch.tensor([1.0, 3.0, 3.0, 2.0])
        >>> first_of_best(torch.full((4,), 9.0), lambda positions: values[positions], 1e-9)
        1
    """
    order = torch.argsort(upper, descending=True, stable=True)
    best = -torch.inf
    for positions in order.split(BLOCK):
        bounds = upper[positions]
        positions = positions[(bounds >= best - 2 * tolerance) & (bounds > -torch.inf)]
        if len(positions) == 0:
            break
        upper[positions] = gains(positions)
        best = max(best, float(upper[positions].max()))
    return int(torch.nonzero(upper >= best - tolerance)[0])


def rounding(n: int, scale: float) -> float:
    """Bound the float64 rounding of a sum of ``n`` similarities of size ``scale``, with room for their own error."""
    return 64 * torch.finfo(torch.float64).eps * n * scale


def check_budget(k: int) -> int:
    """Return ``k``, or raise if it is negative."""
    if k < 0:
        raise ValueError(f"`k`, the number of picks, must not be negative, got {k}.")
    return k


def candidate_indices(candidates: Sequence[int] | Tensor | None, m: int, device: torch.device) -> Tensor:
    """Return the candidates in ascending order, or all of ``m``; raise unless they are a set of indices below ``m``."""
    if candidates is None:
        return torch.arange(m, device=device)
    indices = torch.as_tensor(candidates, dtype=torch.int64, device=device).flatten()
    unique: Tensor = indices.unique()
    if len(unique) < len(indices):
        raise ValueError(f"`candidates` names {len(indices) - len(unique)} samples twice; name each once.")
    if len(unique) and (unique[0] < 0 or unique[-1] >= m):
        raise ValueError(f"`candidates` must lie in [0, {m}), got {int(unique[0])} to {int(unique[-1])}.")
    return unique
