"""A network that `torch.compile` makes faster, for the length of a fit."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from lit_continual.methods.bases.names import similar_names
from lit_continual.methods.bases.releasing import Releasing


class CompiledNetwork(Releasing):
    """Let ``torch.compile`` compile the network in training, and give it back as it was when the fit is over.

    The parts are compiled in place, as by ``module.compile()``, when they are first called: names in checkpoints are
    the same, and copies, such as a teacher, are not compiled. Use it where steps are many and sizes few; the first step
    takes a minute or so, and another size of a batch or a window is compiled anew.

    Args:
        network: The submodule to compile; ``None`` for each child of the module that has parameters. What is compiled
            must be called itself: of a network that is only reached through its parts, name the part.
        backend: Of ``torch.compile``.
        mode: Of ``torch.compile``, such as ``"reduce-overhead"``.
        dynamic: Whether to compile for sizes that change; ``None`` lets torch find out.

    Raises:
        MisconfigurationException: When a fit is set up, if there is no such submodule, or another callback looks into
            layers or replaces their weights, which a compiled network does not allow.

    Example:
        >>> callback = CompiledNetwork("body")
    """

    def __init__(
        self,
        network: str | None = None,
        backend: str | Callable[..., Any] = "inductor",
        mode: str | None = None,
        dynamic: bool | None = None,
    ) -> None:
        self.network = network
        self.options: dict[str, Any] = {"backend": backend, "mode": mode, "dynamic": dynamic}
        self._compiled: list[nn.Module] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if getattr(callback, "needs_eager", False):
                raise MisconfigurationException(
                    f"`{type(callback).__name__}` looks into layers or replaces their weights, which a network that"
                    " `CompiledNetwork` compiles does not allow. Drop one of the two."
                )
        for part in self._parts(pl_module):
            if part._compiled_call_impl is None:  # not compiled by its owner
                part._compiled_call_impl = _compiled(part, self.options)
                self._compiled.append(part)

    def _parts(self, module: LightningModule) -> list[nn.Module]:
        if self.network is None:
            return _called(module)
        known = dict(module.named_modules())
        if self.network not in known:
            raise MisconfigurationException(
                f"`{type(module).__name__}` has no submodule `{self.network}` to compile. The most like it are"
                f" {similar_names(self.network, known)}."
            )
        return [known[self.network]]

    @override
    def release(self, pl_module: LightningModule) -> None:
        for part in self._compiled:
            vars(part).pop("_compiled_call_impl", None)  # private; nothing else gives a module back as it was
            for tensor in (*part.parameters(), *part.buffers()):
                for name in [name for name in vars(tensor) if name.startswith("_dynamo")]:
                    delattr(tensor, name)
        self._compiled = []


def _compiled(part: nn.Module, options: dict[str, Any]) -> Callable[..., Any]:
    """Compile the call of a module from a frame of ours: torch compiles none of its own, as that of ``Sequential``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return part._call_impl(*args, **kwargs)

    call.__code__ = call.__code__.replace()  # torch compiles one code eight times at most, for all parts and all fits
    return torch.compile(call, **options)


def _called(module: nn.Module) -> list[nn.Module]:
    """The children of a module with parameters; of lists and mappings of modules, which nobody calls, their parts."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found += _called(child)
        elif any(True for _ in child.parameters()):
            found.append(child)
    return found
