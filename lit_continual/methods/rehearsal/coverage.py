"""Greedy maximum coverage: the samples that stand best for all others."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from lit_continual.methods.rehearsal.candidates import candidate_indices
from lit_continual.metrics.exact import exact_device

BLOCK = 64  # candidates whose gains are computed at once
ROWS = 256  # samples, or candidates, whose cosines to all others are computed at once
ROUNDING = 64 * torch.finfo(torch.float64).eps  # of a sum in float64, for each term of size 1, with room to spare
PAIRS = 24 * 10**6  # pairs of a candidate and a sample that are kept, of 8 bytes each

Gains = Callable[[Tensor], Tensor]


def maximum_coverage(similarity: Tensor, k: int, candidates: Sequence[int] | Tensor | None = None) -> list[int]:
    r"""Pick the ``k`` columns that greedily maximise the coverage of all rows.

    .. math:: F(S) = \sum_i \max_{s \in S} \mathrm{sim}_{i, s}

    The empty set covers nothing, :math:`-\infty`, so that the first pick maximises the sum of its column and negative
    similarities, such as negative distances, work. Gains are computed in float64; gains that differ by less than their
    rounding error are ties, and a tie goes to the lowest index. The picks of a smaller ``k`` are a prefix of those of
    a larger one. Without the matrix: :func:`maximum_coverage_of_features`.

    Args:
        similarity: ``(n, m)``, finite. Row :math:`i` is a sample to cover, column :math:`s` one that may be picked;
            in the square case both are the same samples. A zero vector has cosine 0 with every other.
        k: Number of picks :math:`k_r`. If there are fewer candidates they are all returned, in greedy order.
        candidates: Columns that may be picked, without repetition, in any order. All by default.

    Returns:
        Column indices in the order in which they were picked.

    Raises:
        ValueError: If ``similarity`` is no finite matrix, ``k`` is negative or ``candidates`` is not a set of columns.

    References:
        Ozdemir et al. Learn the New, Keep the Old. MICCAI 2018, section 2.2. Set coverage as in Yang et al., Suggestive
        Annotation, MICCAI 2017. Lazily as in Minoux, Accelerated Greedy Algorithms, 1978.

    Example:
        >>> similarity = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> maximum_coverage(similarity, k=2)
        [0, 2]
    """
    similarity = _finite(similarity, "similarity", "candidates")
    indices = candidate_indices(candidates, similarity.shape[1], similarity.device)
    if not similarity.numel():
        return indices[: check_budget(k)].tolist()
    coverage = similarity.amin(1).double()  # any coverage that low gives the order that none gives

    def gains(positions: Tensor) -> Tensor:
        return (similarity[:, indices[positions]] - coverage[:, None]).clamp_min_(0).sum(0)

    def cover(position: int) -> None:
        torch.maximum(coverage, similarity[:, indices[position]].double(), out=coverage)

    upper = coverage.new_full(indices.shape, torch.inf)
    scale = max(abs(float(end)) for end in similarity.aminmax())
    order = _greedy(upper, upper.__getitem__, gains, cover, ROUNDING * len(similarity) * scale)
    return indices[[*islice(order, check_budget(k))]].tolist()


def maximum_coverage_of_features(
    features: Tensor, k: int, candidates: Sequence[int] | Tensor | None = None, group: ProcessGroup | None = None
) -> list[int]:
    r"""Pick the ``k`` samples that greedily maximise the coverage of all samples by cosine similarity.

    .. math:: F(S) = \sum_i \max_{s \in S} \cos(x_i, x_s)

    The picks are those of :func:`maximum_coverage` on the float64 matrix of cosines, which is never made. A zero vector
    has cosine 0 with every sample, itself included.

    Args:
        features: ``(n, d)``, finite, of any scale; on every process the same.
        k: Number of picks :math:`k_r`.
        candidates: Samples that may be picked, without repetition. All by default.
        group: Processes that share the work, for instance ``torch.distributed.group.WORLD``: each covers its share
            of the samples, and all return the same picks as one process. All of them must call. None by default.

    Raises:
        ValueError: As :func:`maximum_coverage`.

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
    features = _finite(features, "features", "features")
    indices = candidate_indices(candidates, len(features), features.device)
    unit = torch.nn.functional.normalize(features.double(), dim=1, eps=torch.finfo(torch.float64).tiny)
    covered = _CoveredRows(unit, unit if candidates is None else unit[indices], group)
    upper = unit.new_full(indices.shape, torch.inf)
    order = _greedy(upper, covered.bounds, covered.gains, covered.cover, ROUNDING * len(unit))
    return (int(indices[position]) for position in order)


def _greedy(
    upper: Tensor, bounds: Gains, gains: Gains, cover: Callable[[int], None], tolerance: float
) -> Iterator[int]:
    """Yield positions, each time the first of those with the largest gain.

    The greedy is lazy: gains only fall (submodularity), so that what is known of one, in ``upper`` ``(m,)``, bounds it
    for ever, and few are computed again. ``bounds`` maps positions ``(b,)`` to upper bounds that cost little, ``gains``
    to the gains; those within ``tolerance`` are ties. ``cover`` adds a position to the picks.
    """
    for _ in range(len(upper)):
        best = -torch.inf
        for block in upper.argsort(descending=True).split(BLOCK):
            block = block[(upper[block] >= best - 2 * tolerance) & (upper[block] > -torch.inf)]
            if not len(block):
                break
            upper[block] = torch.minimum(upper[block], bounds(block))
            for likely in (block[upper[block].argmax()][None], block):  # the first's gain rules most others out
                likely = likely[upper[likely] >= best - 2 * tolerance]
                if len(likely):
                    upper[likely] = gains(likely)
                    best = max(best, float(upper[likely].max()))
        ties = (upper >= best - tolerance).nonzero().flatten().tolist()
        if best <= tolerance:  # all is covered: the others are ties, now and later
            yield from ties
            return
        yield ties[0]
        upper[ties[0]] = -torch.inf
        cover(ties[0])


class _CoveredRows:
    """How well unit vectors are covered, and what candidates add: bounds from float32 cosines, gains from float64 ones.

    The bounds follow the coverage of each row that a pick improves. As soon as the pairs of a candidate and a row that
    it covers better are few, they are kept, and no others are looked at again: coverage only grows.

    Rows to cover ``(n, d)`` and candidates ``(m, d)`` are unit or zero vectors in float64. Processes share the rows.
    """

    def __init__(self, rows: Tensor, columns: Tensor, group: ProcessGroup | None) -> None:
        # Float32 products of another precision than the highest, TF32 say, would break the bounds on their rounding.
        self.dtype = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
        self.columns, self.quick_columns, self.group = columns, columns.to(self.dtype), group
        self.rows = rows if group is None else rows[distributed.get_rank(group) :: distributed.get_world_size(group)]
        self.quick_rows = self.quick_columns if self.rows is columns else self.rows.to(self.dtype)
        self.roundoff = torch.finfo(self.dtype).eps / 2
        self.error = (rows.shape[1] + 16) * self.roundoff  # of a cosine, summed in any order
        self.coverage = rows.new_full(self.rows.shape[:1], -1.0)  # no cosine is lower
        self.upper = columns @ self.rows.sum(0) + len(self.rows) * (1 + self.error)
        self.buffer = self.quick_columns.new_empty(ROWS * max(len(self.rows), len(columns)))
        self.pairs: list[tuple[Tensor, Tensor]] = []  # of each candidate: rows, and float32 cosines with them

    def bounds(self, positions: Tensor) -> Tensor:
        """Bound the gains of the candidates at ``positions`` from above."""
        if not self.pairs:
            return self._summed(self.upper[positions])
        rows, cosines = zip(*(self.pairs[position] for position in positions.tolist()), strict=True)
        excess = torch.cat(cosines) - (self.coverage - self.error)[torch.cat(rows)]
        lengths = torch.tensor([len(some) for some in rows], device=excess.device)
        return self._summed(torch.segment_reduce(excess.clamp_min_(0), "sum", lengths=lengths))

    def gains(self, positions: Tensor) -> Tensor:
        """Compute the gains of the candidates at ``positions``."""
        if not self.pairs:
            cosines = self.rows @ self.columns[positions].T
            return self._summed(cosines.sub_(self.coverage[:, None]).clamp_min_(0).sum(0))
        improved = [self._improved(position) for position in positions.tolist()]
        return self._summed(torch.stack([(cosine - self.coverage[rows]).sum() for rows, cosine in improved]))

    def cover(self, position: int) -> None:
        """Add the candidate at ``position`` to the picks."""
        rows, new = self._improved(position)
        old, self.coverage[rows] = self.coverage[rows], new
        if self.pairs:
            return
        low, high = (old + self.error).to(self.dtype), (new + self.error - 8 * self.roundoff).to(self.dtype)
        for part, least, most in zip(rows.split(ROWS), low.split(ROWS), high.split(ROWS), strict=True):
            cosines = self._product(self.quick_columns, self.quick_rows[part])
            lost = cosines.clamp_(least, most).sub_(least).sum(1)
            self.upper -= lost * (1 - 2 * ROWS * self.roundoff)  # no more than is lost, however the sum was rounded
        self._keep_pairs()

    def _improved(self, position: int) -> tuple[Tensor, Tensor]:
        """Return the rows that a candidate covers better, and its cosines with them."""
        rows, vectors = torch.arange(len(self.rows), device=self.rows.device), self.rows
        if self.pairs:
            rows, quick = self.pairs[position]
            rows = rows[quick > self.coverage[rows] - self.error]
            vectors = self.rows[rows]
        cosine = vectors @ self.columns[position]
        better = cosine > self.coverage[rows]
        return rows[better], cosine[better]

    def _keep_pairs(self) -> None:
        """Keep the pairs that may matter, if they are few."""
        low, m = (self.coverage - self.error).to(self.dtype), len(self.columns)
        pairs, room = list[tuple[Tensor, Tensor]](), PAIRS
        sample = self.quick_columns[:: m // ROWS + 1]
        if (sample @ self.quick_rows.T > low).count_nonzero() * m > 0.9 * PAIRS * len(sample):
            return
        for part in self.quick_columns.split(ROWS):
            cosines = self._product(part, self.quick_rows)
            above = cosines > low
            counts, rows = above.sum(1).tolist(), above.nonzero()[:, 1].int()
            if (room := room - len(rows)) < 0:  # more than the sample promised
                return
            pairs += zip(rows.split(counts), cosines[above].split(counts), strict=True)
        self.pairs = pairs

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``a @ b.T``, until the next product takes its place in memory."""
        return torch.mm(a, b.T, out=self.buffer[: len(a) * len(b)].view(len(a), len(b)))

    def _summed(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes, which ``all_reduce`` makes bitwise the same on each."""
        if self.group is not None:
            distributed.all_reduce(tensor, group=self.group)
        return tensor


def check_budget(k: int) -> int:
    """Return ``k``, or raise if it is negative."""
    if k < 0:
        raise ValueError(f"`k`, the number of picks, must not be negative, got {k}.")
    return k


def _finite(matrix: Tensor, name: str, columns: str) -> Tensor:
    if matrix.ndim != 2:
        raise ValueError(f"`{name}` must be a matrix (samples, {columns}), got shape {tuple(matrix.shape)}.")
    if not torch.isfinite(matrix).all():
        raise ValueError(f"`{name}` holds nan or infinite values; drop those samples before picking by coverage.")
    return matrix.detach().to(exact_device(matrix.device))  # where gains are computed
