"""What a module's own forward was asked in a training step, and what it answered."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self


class ForwardCall(NamedTuple):
    """One call of a module's own ``forward``: its arguments, and what it returned."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    #: Whether it has changed a tensor that it was given, in place.
    changed: bool = False


class ForwardCalls:
    """Note the calls of a module's own ``forward`` while a block runs, be it as ``self(x)`` or ``self.forward(x)``.

    Calls are seen where the module is compiled too. When the block ends nothing is left on the module; what was noted
    is kept until :meth:`clear`.

    Args:
        module: The module; the forwards of what it holds are not noted.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> with ForwardCalls(layer) as calls:
        ...     loss = layer(2 * torch.ones(3, 2)).sum()
        >>> calls.of(loss).args[0].shape, calls.of(loss).output.shape
        (torch.Size([3, 2]), torch.Size([3, 1]))
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        #: Are called with what ``forward`` has returned, each time.
        self.after: list[Callable[[Any], None]] = []
        self._noted = _Noted(self.after)

    def __enter__(self) -> Self:
        module: Any = self.module
        self._shadowed = vars(module).get("forward")  # of a module that went through `torch.compile`, or DDP
        self._noted.forward, self._noted.active = module.forward, True
        module.forward = self._noted
        return self

    def __exit__(self, *_: Any) -> None:
        module: Any = self.module
        self._noted.active = False  # activation checkpointing may call it once more, in backward
        if self._shadowed is None:
            del module.forward
        else:
            module.forward = self._shadowed

    def of(self, outputs: Any) -> ForwardCall | None:
        """Return the call that the loss came from.

        Of several it is the one that returned ``outputs["logits"]``, else the last that returned something with a
        gradient; ``None`` where there is none.
        """
        calls = [ForwardCall(*call) for call in self._noted.calls]
        calls = [call for call in calls if any(part.requires_grad for part in tensors(call.output))]
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        named = [call for call in calls if any(is_same(part, logits) for part in tensors(call.output))]
        found = named or calls
        return found[-1] if found else None

    def clear(self) -> None:
        """Let go of what was noted, and of its graphs."""
        self._noted.calls.clear()


class _Noted:
    """A forward that notes its calls. One object serves all steps, so that a compiled step is compiled once."""

    def __init__(self, after: Iterable[Callable[[Any], None]]) -> None:
        self.forward: Any = None
        self.after = after
        self.active = False
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any], Any, bool]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = tensors([*args, *kwargs.values()]) if self.active and not torch.compiler.is_compiling() else []
        before = _versions(given)
        output = self.forward(*args, **kwargs)
        if self.active:
            self.calls.append((args, kwargs, output, before != _versions(given)))
            for hear in self.after:
                hear(output)
        return output

    def __reduce__(self) -> Any:
        return plain, (self.forward,)  # A copy of the module, or a pickle of it, is a plain module.


def _versions(given: Iterable[Tensor]) -> list[int]:
    return [0 if tensor.is_inference() else tensor._version for tensor in given]


def plain(method: Any) -> Any:
    """Return what a pickled wrapper wraps; its copy is the method itself."""
    return method


def tensors(output: Any) -> list[Tensor]:
    """The tensors in an output: itself, or those of a container or a dataclass, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        parts: Iterable[Any] = output.values()
    elif isinstance(output, (list, tuple)):
        parts = output
    elif is_dataclass(output):
        parts = [getattr(output, field.name) for field in fields(output)]
    else:
        parts = [output.logits] if hasattr(output, "logits") else []
    return [tensor for part in parts for tensor in tensors(part)]


def is_same(one: Tensor, other: Any) -> bool:
    """Whether two tensors are one, or one is the other detached."""
    if one is other or not isinstance(other, Tensor):
        return one is other
    same = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return same and one.data_ptr() == other.data_ptr() != 0
