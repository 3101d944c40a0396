"""How well rows of unit vectors are covered, and what each candidate would add."""

import torch
from torch import Tensor

from lit_continual.methods.rehearsal.similarities_above import SimilaritiesAbove

#: Rows whose similarities to all candidates are computed at once.
ROWS = 256


class CoveredRows:
    r"""Coverage of some rows in float64, and an interval around the gain of each candidate from float32 products.

    While most similarities exceed the coverage, the rows that a pick improved are computed once more in full, some
    :math:`n / k` rows after :math:`k` picks. As soon as the similarities above the coverage fit into memory they are
    kept, row by row; no others will ever matter.

    Args:
        rows: ``(n, d)`` unit or zero vectors to cover, float64.
        columns: ``(m, d)`` unit or zero vectors that may be picked, float64; the same tensor where they are the rows.

    Example:
        >>> rows = CoveredRows(torch.eye(2).double(), torch.tensor([[0.6, 0.8], [1.0, 0.0]]).double())
        >>> rows.cover(0)
        >>> rows.gains(torch.tensor([1]))
        tensor([0.4000], dtype=torch.float64)
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        # Float32 products of another precision than the highest, TF32 say, would break the bounds on their rounding.
        dtype = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
        self.rows, self.columns = rows, columns
        self.quick_columns = columns.to(dtype)
        self.quick_rows = self.quick_columns if rows is columns else rows.to(dtype)
        self.unit_roundoff = torch.finfo(dtype).eps / 2
        self.error = (rows.shape[1] + 8) * self.unit_roundoff  # of a product of unit vectors, summed in any order
        self.coverage = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
        self.gain = columns @ rows.sum(0)
        self.slack = torch.zeros_like(self.gain)
        self.above: SimilaritiesAbove | None = None

    def gains(self, positions: Tensor) -> Tensor:
        """Compute what the candidates at ``positions`` would add, in float64."""
        quick = self.quick_rows @ self.quick_columns[positions].T
        near = (quick > (self.coverage - self.error)[:, None]).any(1).nonzero().flatten()
        similarity, coverage = self.rows[near] @ self.columns[positions].T, self.coverage[near, None]
        return torch.where(coverage == -torch.inf, similarity, (similarity - coverage).clamp_min_(0)).sum(0)

    def cover(self, position: int) -> None:
        """Add the candidate at ``position`` to the picks."""
        near = (self.quick_rows @ self.quick_columns[position] > self.coverage - self.error).nonzero().flatten()
        similarity = self.rows[near] @ self.columns[position]
        better = similarity > self.coverage[near]
        improved, new = near[better], similarity[better]
        old = self.coverage[improved]
        self.coverage[improved] = new
        if self.above is not None:
            self.above.move(improved, old, new, self.gain, self.slack)
        else:
            self.above = SimilaritiesAbove.of(self.quick_rows, self.quick_columns, self.coverage, self.error)
            if self.above is not None:
                self.gain, self.slack = self.above.totals(self.coverage, len(self.columns))
            else:
                self._move(improved, old, new)

    def _move(self, improved: Tensor, old: Tensor, new: Tensor) -> None:
        """Follow the coverage of some rows from ``old`` to ``new`` with all their similarities."""
        first = len(old) > 0 and bool(old[0] == -torch.inf)
        if first:
            self.gain.zero_()
        for rows, before, after in zip(improved.split(ROWS), old.split(ROWS), new.split(ROWS), strict=True):
            similarity = self.quick_columns @ self.quick_rows[rows].T
            before, after = before.to(similarity.dtype), after.to(similarity.dtype)
            added = torch.maximum(similarity, after)
            added -= after if first else torch.maximum(similarity, before).add_(after - before)
            self.gain += added.sum(1)
            self.slack += 2 * (self.error + ROWS * self.unit_roundoff) * len(rows)
