"""Some samples of a batch, whatever a batch is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from lit_continual.methods.bases.fit.forward_calls import tensors


def count_rows(batch: Any) -> int:
    """Return how many samples a batch has: the length of its first tensor; 0 where it has none."""
    return next((len(tensor) for tensor in tensors(batch) if tensor.ndim), 0)


def take_rows(batch: Any, rows: Sequence[int]) -> Any:
    """Return a batch of some samples: of its tensors along the first axis, of its lists what has a part for each.

    Args:
        batch: Tensors, or mappings, sequences and dataclasses of them. What has no part for each sample stays whole.
        rows: Which samples.

    Example:
        >>> import torch
        >>> take_rows({"image": torch.arange(3.0), "label": [0, 1, 2], "spacing": (1.0, 2.0)}, [2])
        {'image': tensor([2.]), 'label': [2], 'spacing': (1.0, 2.0)}
    """
    return _taken(batch, list(rows), count_rows(batch))


def _taken(part: Any, rows: list[int], size: int) -> Any:
    if isinstance(part, Tensor):
        return part[rows] if part.ndim and len(part) == size else part
    if isinstance(part, Mapping):
        return {key: _taken(value, rows, size) for key, value in part.items()}
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: _taken(getattr(part, f.name), rows, size) for f in fields(part)})
    if not isinstance(part, Sequence) or isinstance(part, str):
        return part
    inside = tensors(part)
    if inside and all(tensor.ndim and len(tensor) == size for tensor in inside):
        taken = [_taken(value, rows, size) for value in part]
    else:
        taken = [part[row] for row in rows] if len(part) == size else list(part)
    return type(part)(*taken) if hasattr(part, "_fields") else type(part)(taken)  # type: ignore[call-arg]
