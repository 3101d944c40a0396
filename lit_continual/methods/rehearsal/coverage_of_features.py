"""Greedy maximum coverage by cosine similarity, without the matrix of similarities."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from lit_continual.methods.rehearsal.covered_rows import CoveredRows
from lit_continual.methods.rehearsal.maximum_coverage import candidate_indices, check_budget, first_of_best, rounding


def maximum_coverage_of_features(
    features: Tensor,
    k: int,
    candidates: Sequence[int] | Tensor | None = None,
    group: ProcessGroup | None = None,
) -> list[int]:
    r"""Pick the ``k`` samples that greedily maximise the coverage of all samples by cosine similarity.

    .. math:: F(S) = \sum_i \max_{s \in S} \cos(x_i, x_s)

    The picks are those of :func:`maximum_coverage` on the float64 matrix of cosines, of which no more than the part
    that still matters is ever kept. Similarities in float32 give an interval for each gain; where intervals overlap,
    the gains are computed in float64. A zero vector has cosine 0 with every sample, itself included.

    Args:
        features: ``(n, d)``, finite, of any scale; on every process the same.
        k: Number of picks :math:`k_r`. If there are fewer candidates they are all returned, in greedy order.
        candidates: Samples that may be picked, without repetition. All by default.
        group: Processes that share the work, for instance ``torch.distributed.group.WORLD``: each covers its share
            of the samples, and all return the same picks as one process. All of them must call. None by default.

    Returns:
        Sample indices in the order in which they were picked.

    Raises:
        ValueError: If ``features`` is no finite matrix, ``k`` is negative or ``candidates`` is not a set of samples.

    References:
        Ozdemir et al. Learn the New, Keep the Old: Extending Pretrained Models with New Anatomy and Images. MICCAI
        2018, section 2.2.

    Example:
        >>> maximum_coverage_of_features(torch.tensor([[2.0, 0.0], [3.0, 1.0], [0.0, 1.0]]), k=2)
        [1, 2]
    """
    return list(islice(coverage_order(features, candidates, group), check_budget(k)))


def coverage_order(
    features: Tensor, candidates: Sequence[int] | Tensor | None = None, group: ProcessGroup | None = None
) -> Iterator[int]:
    """Yield all candidates in the order of :func:`maximum_coverage_of_features`, for progress bars and open budgets.

    Example:
        >>> list(coverage_order(torch.tensor([[2.0, 0.0], [3.0, 1.0], [0.0, 1.0]])))
        [1, 2, 0]
    """
    if features.ndim != 2:
        raise ValueError(f"`features` must be a matrix (samples, features), got shape {tuple(features.shape)}.")
    if not torch.isfinite(features).all():
        raise ValueError("`features` holds nan or infinite values; drop those samples before picking by coverage.")
    indices = candidate_indices(candidates, len(features), features.device)
    return _picks(features, indices, candidates is None, group)


def _picks(features: Tensor, indices: Tensor, everyone: bool, group: ProcessGroup | None) -> Iterator[int]:
    unit = torch.nn.functional.normalize(features.double(), dim=1, eps=torch.finfo(torch.float64).tiny)
    rank, world = (0, 1) if group is None else (distributed.get_rank(group), distributed.get_world_size(group))
    share = CoveredRows(unit[rank::world] if world > 1 else unit, unit if everyone else unit[indices])
    tolerance = rounding(len(unit), 1.0)
    stale = torch.full(
        indices.shape, torch.inf, dtype=torch.float64, device=unit.device
    )  # exact gains of earlier steps

    def gains(positions: Tensor) -> Tensor:
        return _summed(share.gains(positions), group)

    for step in range(len(indices)):
        lower, upper = _summed(torch.stack([share.gain - share.slack, share.gain + share.slack]), group)
        upper = torch.minimum(upper, stale)
        likely = (upper >= lower[stale > -torch.inf].max() - 2 * tolerance) & (stale > -torch.inf)
        best = int(likely.nonzero()[0])
        if likely.sum() > 1:
            best = first_of_best(upper.masked_fill_(~likely, -torch.inf), gains, tolerance)
            if step and upper[best] <= tolerance:  # All is covered: the rest are ties.
                yield from indices[stale > -torch.inf].tolist()
                return
            if step:  # The first gains, from no coverage at all, bound no later ones.
                stale[likely] = upper[likely] + tolerance
        stale[best] = -torch.inf
        share.cover(best)
        yield int(indices[best])


def _summed(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the sum over the processes, which ``all_reduce`` makes bitwise the same on each."""
    if group is not None:
        distributed.all_reduce(tensor, group=group)
    return tensor
