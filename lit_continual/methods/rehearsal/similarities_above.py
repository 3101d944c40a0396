"""The similarities that exceed the coverage of their rows, as a sparse matrix."""

from collections.abc import Iterator

import torch
from torch import Tensor

#: Bytes that the entries may take.
ROOM = 200 * 2**20
#: Rows that are computed at once, and that the number of entries is estimated from.
ROWS = 256
#: Entries that are followed at once, which fit into a cache.
ENTRIES = 2**17


class SimilaritiesAbove:
    """Entries of ``rows @ columns.T`` above a coverage that only grows, row by row.

    Args:
        count: ``(n,)``, how many entries each row has.
        column: Column of each entry.
        value: Value of each entry.
        error: Bound on the error of a value.
    """

    def __init__(self, count: Tensor, column: Tensor, value: Tensor, error: float) -> None:
        self.count, self.column, self.value, self.error = count, column, value, error
        self.start = count.cumsum(0) - count

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, coverage: Tensor, error: float) -> "SimilaritiesAbove | None":
        """Return the entries that may exceed ``coverage``, or ``None`` if they take more than ``ROOM``."""
        n, m = len(rows), len(columns)
        index = torch.int16 if m <= torch.iinfo(torch.int16).max else torch.int32
        room = min(ROOM // (index.itemsize + rows.element_size()), n * m)
        threshold = (coverage - 2 * error).to(rows.dtype)[:, None]
        sample = torch.arange(0, n, max(n // ROWS, 1), device=rows.device)
        if room < n * m and (rows[sample] @ columns.T > threshold[sample]).sum() * n / len(sample) > 0.8 * room:
            return None
        column, value, end = rows.new_empty(room, dtype=index), rows.new_empty(room), 0
        count = torch.empty(n, dtype=torch.int64, device=rows.device)
        for part in torch.arange(n, device=rows.device).split(ROWS):
            similarity = rows[part] @ columns.T
            above = similarity > threshold[part]
            count[part] = above.sum(1, dtype=torch.int32).long()
            kept = above.flatten().nonzero().flatten()
            begin, end = end, end + len(kept)
            if end > room:  # The sample gave too small an estimate.
                return None
            column[begin:end], value[begin:end] = kept % m, similarity.flatten()[kept]
        return cls(count, column[:end], value[:end], error)

    def totals(self, coverage: Tensor, m: int) -> tuple[Tensor, Tensor]:
        """Return for each of ``m`` columns what it adds to ``coverage``, and a bound on the error of that sum."""
        gain, slack = coverage.new_zeros(m), coverage.new_zeros(m)
        for rows, owner, entry in self._parts(torch.arange(len(coverage), device=coverage.device)):
            column = self.column[entry].long()
            gain.index_add_(0, column, (self.value[entry] - coverage[rows][owner]).clamp_min_(0))
            slack += self.error * torch.bincount(column, minlength=m)
        return gain, slack

    def move(self, rows: Tensor, old: Tensor, new: Tensor, gain: Tensor, slack: Tensor) -> None:
        """Follow the coverage of ``rows`` from ``old`` to ``new`` in ``gain`` and ``slack``, in place."""
        before = torch.zeros_like(self.start, dtype=old.dtype).index_copy_(0, rows, old)
        after = torch.zeros_like(before).index_copy_(0, rows, new)
        for part, owner, entry in self._parts(rows):
            value, column = self.value[entry], self.column[entry].long()
            excess = value - after[part][owner]
            lost = (value - before[part][owner]).clamp_min_(0) - excess.clamp_min(0)
            gain.index_add_(0, column, lost, alpha=-1)
            above = excess > -2 * self.error
            slack.index_add_(0, column, (~above).double(), alpha=-self.error)
            self._keep(part, owner, entry, above.nonzero().flatten())

    def _parts(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield some of ``rows`` at a time, and for each of their entries its row among these and where it is."""
        step = int(ENTRIES * len(rows) / (self.count[rows].sum() + 1)) + 1
        for part in rows.split(step):
            count = self.count[part]
            owner = torch.repeat_interleave(count)
            first = self.start[part] - count.cumsum(0) + count
            yield part, owner, torch.arange(len(owner), device=rows.device) + first[owner]

    def _keep(self, rows: Tensor, owner: Tensor, entry: Tensor, kept: Tensor) -> None:
        """Move the entries ``kept`` to the front of their rows and forget the others."""
        count = torch.bincount(owner[kept], minlength=len(rows))
        first = self.start[rows] - count.cumsum(0) + count
        target = torch.arange(len(kept), device=rows.device) + first[owner[kept]]
        self.value[target], self.column[target] = self.value[entry[kept]], self.column[entry[kept]]
        self.count[rows] = count
