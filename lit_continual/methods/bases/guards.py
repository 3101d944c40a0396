"""Checks that stop a run before it trains something else than it says."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn.parameter import is_lazy


def require_automatic_optimization(pl_module: LightningModule, who: object) -> None:
    """Raise if Lightning would not backpropagate the loss that ``training_step`` returns."""
    if not pl_module.automatic_optimization:
        raise MisconfigurationException(
            f"`{type(who).__name__}` adds to the loss that `training_step` returns, and Lightning does not"
            f" backpropagate that loss under manual optimization. Set `{type(pl_module).__name__}"
            ".automatic_optimization = True`, or drop the callback."
        )


def require_batches(pl_module: LightningModule, who: object) -> None:
    """Raise if a module draws its batches itself, so that no callback sees them."""
    if "dataloader_iter" in signature(pl_module.training_step).parameters:
        raise MisconfigurationException(
            f"`{type(who).__name__}` needs the batches that Lightning gives, and `training_step` of"
            f" {type(pl_module).__name__} draws them from `dataloader_iter`. Give it the arguments `batch, batch_idx`."
        )


def require_initialised(module: nn.Module) -> None:
    """Raise if a module has lazy layers, whose weights have no shape before the first forward pass."""
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise MisconfigurationException(
                f"`{name}` of {type(module).__name__} is lazy, and has no shape yet. Call the module once on an example"
                " before the fit."
            )


def require_real(parameters: Mapping[str, nn.Parameter], who: object, remedy: str) -> None:
    """Raise if one of the named parameters is complex, of which no importance and no projection is defined."""
    for name, parameter in parameters.items():
        if parameter.is_complex():
            raise MisconfigurationException(
                f"`{type(who).__name__}` is defined for real weights, and `{name}` is complex. {remedy}"
            )


def require_whole_weights(trainer: Trainer, who: object) -> None:
    """Raise if another callback takes weights apart during a fit, which then have other names and layouts."""
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
    if any(_is_a(callback, "ModelPruning") for callback in callbacks):
        raise MisconfigurationException(
            f"`{type(who).__name__}` knows weights by their names and layout, and `ModelPruning` puts others in their"
            " place. Drop one of the two."
        )


def require_persistent_replicas(trainer: Trainer, who: object, remembers: bool = True) -> None:
    """Raise unless each process holds the whole module and, where ``who`` ``remembers``, outlives ``fit``."""
    strategy = trainer.strategy
    whole = _is_a(strategy, "SingleDeviceStrategy", "DDPStrategy") and not _is_a(strategy, "DeepSpeedStrategy")
    if not whole or (remembers and _is_a(strategy.launcher, "_MultiProcessingLauncher")):
        raise MisconfigurationException(
            f"`{type(who).__name__}` keeps state from one fit to the next, which `{type(strategy).__name__}` shards or"
            " drops with its processes. Use `strategy='auto'` on one device, or `strategy='ddp'`."
        )


def require_eager(module: nn.Module, what: str) -> None:
    """Raise if a compiled module would not see hooks that are put on its layers later."""
    for part in module.modules():
        if is_compiled(part):
            raise MisconfigurationException(
                f"{what} needs hooks on layers, which the compiled {type(part).__name__} does not see. Give the Trainer"
                " the module without `torch.compile`, or leave the option out."
            )


def is_compiled(part: nn.Module) -> bool:
    """Whether a module itself went through ``torch.compile``."""
    return bool(getattr(part, "_compiler_ctx", None) or part._compiled_call_impl or hasattr(part, "_orig_mod"))


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Run a network as it was before ``torch.compile``, so that hooks on its layers are called."""
    if any(is_compiled(part) for part in network.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:  # the compiler takes seconds to import
        yield


def _is_a(found: object, *names: str) -> bool:
    """Whether an object is of one of Lightning's classes, of ``lightning.pytorch`` or of ``pytorch_lightning``."""
    return any(kind.__name__ in names for kind in type(found).__mro__)
