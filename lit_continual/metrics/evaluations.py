"""The evaluations of a stream, as the state of a metric."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Evaluations(Metric):
    """Base of what is computed from the scores of every experience after every experience.

    Evaluating a cell again replaces it: the last value wins, also if it is nan. In merging, the metric merged into
    keeps its own values; over ranks, the highest one with a value wins. So let all ranks update with the same, already
    reduced score, or one rank alone. ``state_dict`` holds the cells.

    Args:
        num_experiences: Number of experiences T in the stream.
        **kwargs: Options of ``torchmetrics.Metric``.

    Raises:
        ValueError: If ``num_experiences`` is not positive.
    """

    is_differentiable = False
    full_state_update = True  # `forward` then updates the cells, where merging could not replace a value by nan
    matrix: Tensor

    def __init__(self, num_experiences: int, **kwargs: Any) -> None:
        super().__init__(compute_with_cache=False, **kwargs)  # the cache would outlive `load_state_dict`
        if num_experiences < 1:
            raise ValueError(f"`num_experiences` must be at least 1, and is {num_experiences}.")
        cells = torch.full((num_experiences, num_experiences), torch.nan, dtype=torch.float64)
        self.add_state("matrix", default=cells, dist_reduce_fx=_last_evaluated, persistent=True)

    @property
    def update_called(self) -> bool:
        """Whether a cell was entered, be it by ``update``, ``merge_state`` or ``load_state_dict``."""
        return super().update_called or not bool(self.matrix.isnan().all())

    def update(self, after: int, on: int, score: float | Tensor) -> None:
        """Enter the score on one experience after training on another.

        Args:
            after: Index from 0 of the experience trained last, the row.
            on: Index from 0 of the experience evaluated, the column.
            score: The score, nan if it is undefined.

        Raises:
            ValueError: If an index is not in the stream.
        """
        experiences = len(self.matrix)
        for name, index in (("after", after), ("on", on)):
            if not 0 <= index < experiences:
                raise ValueError(
                    f"`{name}` must be from 0 to {experiences - 1} in a stream of {experiences} experiences, and is "
                    f"{index}."
                )
        matrix = self.matrix.clone()  # `state_dict` and whoever loaded one hold the old tensor
        matrix[after, on] = float(score)
        self.matrix = matrix

    def merge_state(self, incoming_state: Mapping[str, Any] | Metric) -> None:
        """Add the cells of another metric or its state, and keep one's own where both have a value."""
        state = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        cells = torch.as_tensor(state["matrix"]).to(self.matrix)
        self.matrix = _last_evaluated(torch.stack([cells, self.matrix]))


def _last_evaluated(matrices: Tensor) -> Tensor:
    """Return, cell by cell, the last value of ``(N, T, T)`` that is not nan."""
    kept = matrices[0]
    for newer in matrices[1:]:
        kept = torch.where(newer.isnan(), kept, newer)
    return kept
