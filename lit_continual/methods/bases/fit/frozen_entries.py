"""Entries of parameters and buffers that training must not move."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_continual.methods.bases.guards import require_initialised
from lit_continual.metrics.exact import in_float64


def learnt_values(network: nn.Module) -> dict[str, Tensor]:
    """The live tensors of a network that training may move, by name: parameters, and buffers that a checkpoint has.

    Buffers are running statistics, the vectors of a spectral norm, averages of a codebook, ranges of an observer.
    """
    require_initialised(network)
    passing = {
        id(module._buffers[name])
        for module in network.modules()
        for name in module._non_persistent_buffers_set.intersection(module._buffers.keys())
    }
    buffers = {name: value for name, value in network.named_buffers() if id(value) not in passing}
    return {**dict(network.named_parameters()), **buffers}


def free_share(network: nn.Module, free: Mapping[str, Tensor]) -> float:
    """The share of the parameters of a network that are free by masks that broadcast against them, in [0, 1]."""
    sizes = {name: value.numel() for name, value in network.named_parameters()}
    return sum(size * in_float64(free[name]).mean().item() for name, size in sizes.items()) / sum(sizes.values())


class FrozenEntries:
    """Put back, bit for bit, what is not free in a module's parameters and buffers, and clear its gradients.

    Args:
        module: The module; its parameters and persistent buffers are what training may move.
        free: For each of these, by name, a mask that broadcasts against it and varies along one axis at most, true
            where it may move.

    Raises:
        ValueError: If names or shapes show that the masks belong to another network.

    Example:
        >>> layer = nn.Linear(3, 2, bias=False)
        >>> _ = nn.init.zeros_(layer.weight)
        >>> held = FrozenEntries(layer, {"weight": torch.tensor([[True], [False]])})
        >>> _ = nn.init.ones_(layer.weight)
        >>> held.restore_parameters()
        >>> layer.weight.tolist()
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, module: nn.Module, free: Mapping[str, Tensor]) -> None:
        values = learnt_values(module)
        for name in sorted(values.keys() | free.keys()):
            _check(name, values.get(name), free.get(name))
        held = [_FrozenEntry.of(module, name, free[name]) for name in values if not bool(free[name].all())]
        self._parameters = [one for one in held if isinstance(one.live, nn.Parameter)]
        self._buffers = [one for one in held if not isinstance(one.live, nn.Parameter)]

    def clear_gradients(self, of: Mapping[int, Tensor | None] | None = None) -> None:
        """Set the gradients of what is held to 0, nan and inf among them.

        Args:
            of: The gradients by the ids of the parameters; ``None`` for those that the parameters have.
        """
        for one in self._parameters:
            gradient = one.live.grad if of is None else of.get(id(one.live))
            if gradient is not None and one.rows is None:
                gradient.zero_()
            elif gradient is not None and one.rows is not None:
                gradient.index_fill_(one.axis, one.rows, 0.0)

    def restore_parameters(self) -> None:
        """Put the parameters back."""
        _restore(self._parameters)

    def restore_buffers(self) -> None:
        """Put the buffers back."""
        _restore(self._buffers)


class _FrozenEntry(NamedTuple):
    """The held rows of a tensor along an axis, or all of it, and what they hold."""

    owner: nn.Module
    attribute: str
    axis: int
    rows: Tensor | None
    kept: Tensor

    @property
    def live(self) -> Tensor:
        """Looked up each time: whoever resets running statistics may put a new tensor in their place."""
        live: Tensor = getattr(self.owner, self.attribute)
        return live

    @classmethod
    def of(cls, module: nn.Module, name: str, free: Tensor) -> "_FrozenEntry":
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        data = getattr(owner, attribute).detach()
        if not bool(free.any()):
            return cls(owner, attribute, 0, None, data.clone())
        axis = max(range(free.ndim), key=lambda a: free.shape[a])
        rows = (~free).flatten().nonzero().flatten().to(data.device)
        return cls(owner, attribute, axis, rows, data.index_select(axis, rows))


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
def _restore(held: Iterable[_FrozenEntry]) -> None:
    for one in held:
        if one.rows is None and (one.live is None or one.live.shape != one.kept.shape):  # an observer's begin empty
            setattr(one.owner, one.attribute, one.kept.clone())
        elif one.rows is None:
            one.live.copy_(one.kept)
        else:
            one.live.index_copy_(one.axis, one.rows, one.kept)
