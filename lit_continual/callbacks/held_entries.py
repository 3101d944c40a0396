"""Entries of parameters and buffers that training must not move."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


class HeldEntries:
    """Put back, bit for bit, what is not free in a module's parameters and buffers, and clear its gradients.

    Args:
        values: The live tensors by name.
        free: For each name, a mask that broadcasts against the tensor and varies along one axis at most, true where
            the tensor may move.

    Raises:
        ValueError: If names or shapes show that the masks belong to another network.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2, 3))
        >>> held = HeldEntries({"weight": weight}, {"weight": torch.tensor([[True], [False]])})
        >>> with torch.no_grad():
        ...     _ = weight.fill_(1.0)
        >>> held.restore_parameters()
        >>> weight.tolist()
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, values: Mapping[str, Tensor], free: Mapping[str, Tensor]) -> None:
        for name in sorted(values.keys() | free.keys()):
            _check(name, values.get(name), free.get(name))
        held = [_Held.of(value, free[name]) for name, value in values.items() if not bool(free[name].all())]
        self._parameters = [one for one in held if isinstance(one.live, nn.Parameter)]
        self._buffers = [one for one in held if not isinstance(one.live, nn.Parameter)]

    def clear_gradients(self) -> None:
        """Set the gradients of what is held to 0, nan and inf among them."""
        for one in self._parameters:
            if one.live.grad is not None:
                if one.rows is None:
                    one.live.grad.zero_()
                else:
                    one.live.grad.index_fill_(one.axis, one.rows, 0.0)

    def restore_parameters(self) -> None:
        """Put the parameters back."""
        _restore(self._parameters)

    def restore_buffers(self) -> None:
        """Put the buffers back."""
        _restore(self._buffers)


class _Held(NamedTuple):
    """The held rows of a tensor along an axis, or all of it, and what they hold."""

    live: Tensor
    axis: int
    rows: Tensor | None
    kept: Tensor

    @classmethod
    def of(cls, live: Tensor, free: Tensor) -> "_Held":
        data = live.detach()
        if not bool(free.any()):
            return cls(live, 0, None, data.clone())
        axis = max(range(free.ndim), key=lambda a: free.shape[a])
        rows = (~free).flatten().nonzero().flatten().to(live.device)
        return cls(live, axis, rows, data.index_select(axis, rows))


def _check(name: str, value: Tensor | None, free: Tensor | None) -> None:
    if value is not None and free is not None:
        if all(mask in (1, size) for mask, size in zip(free.shape, value.shape, strict=False)):
            return
        what = f"has shape {tuple(value.shape)} and its mask {tuple(free.shape)}"
    else:
        what = "has no mask" if free is None else "has a mask and is not in the network"
    raise ValueError(
        f"`{name}` {what}: the masks are of another architecture. Build the network as it was, or fit anew."
    )


@torch.no_grad()
def _restore(held: Iterable[_Held]) -> None:
    for one in held:
        if one.rows is None:
            one.live.copy_(one.kept)
        else:
            one.live.index_copy_(one.axis, one.rows, one.kept)
