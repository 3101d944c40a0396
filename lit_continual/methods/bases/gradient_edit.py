"""Base class of the callbacks that change gradients before an optimizer steps with them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lit_continual.methods.bases.fit.manual_steps import ManualSteps
from lit_continual.methods.bases.named_method import NamedMethod
from lit_continual.methods.bases.releasing import Releasing


class GradientEdit(NamedMethod, Releasing, ABC):
    """Change the gradients of an optimizer's step: once a step, after all else and before clipping.

    Gradients are then accumulated, reduced over the processes and no longer scaled, and what is done to them is the
    same in every process. Works on any LightningModule, under manual optimization too.

    Raises:
        MisconfigurationException: If gradients are sparse, or an optimizer would be given them while they are still
            scaled, and under strategies that shard the module or drop the processes of ``fit``.

    Example:
        >>> class Halved(GradientEdit):
        ...     name = "halved"
        ...
        ...     def edit(self, trainer, pl_module, optimizer):
        ...         for p in stepped(optimizer):
        ...             p.grad.mul_(0.5)
        >>> Halved().state_key
        'Halved[halved]'
    """

    knows_weights = True
    #: What a user can do instead where gradients cannot be edited, such as "`step='proximal'`".
    instead = ""

    def __init__(self) -> None:
        self._steps = ManualSteps()

    @abstractmethod
    def edit(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Change the gradients that an optimizer is about to step with, in place.

        Args:
            trainer: The trainer of the fit.
            pl_module: The module in training.
            optimizer: Whose step it is. Parameters outside of the loss have no gradient yet.
        """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._require_dense(pl_module)
        self._require_unscaled(trainer)
        self._steps = ManualSteps(
            pl_module, trainer.optimizers, lambda optimizer: self.edit(trainer, pl_module, optimizer), self.instead
        )

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._steps.prepared(optimizer)
        self.edit(trainer, pl_module, optimizer)

    @override
    def release(self, pl_module: LightningModule) -> None:
        self._steps.remove()

    def _require_dense(self, pl_module: LightningModule) -> None:
        for name, layer in pl_module.named_modules():
            if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.sparse:
                raise MisconfigurationException(
                    f"`{type(self).__name__}` edits gradients, and those of `{name}` are sparse. Set"
                    f" {' or '.join(filter(None, ['`sparse=False` in it', self.instead]))}."
                )

    def _require_unscaled(self, trainer: Trainer) -> None:
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if scaled and any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in trainer.optimizers):
            remedies = ", ".join(filter(None, [self.instead, "`fused=False`"]))
            raise MisconfigurationException(
                f"`{type(self).__name__}` edits gradients that a fused optimizer under `precision='16-mixed'` still"
                f" holds scaled. Set {remedies}, or `precision='bf16-mixed'`."
            )


def stepped(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def among(parameters: Mapping[str, nn.Parameter], found: Sequence[nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those of the named parameters that are among others and train."""
    ids = {id(p) for p in found}
    return {name: p for name, p in parameters.items() if id(p) in ids and p.requires_grad}


def has_gradients(optimizer: Optimizer) -> bool:
    """Whether there is a gradient at all: there is none where ``training_step`` returned ``None``."""
    return any(p.grad is not None for p in stepped(optimizer))


def add_gradient(pairs: Sequence[tuple[nn.Parameter, Tensor]], factor: float = 1.0) -> None:
    """Let a multiple of a gradient join that of its parameter; one that is outside the loss of the module gets one."""
    gradients = []
    for p, _ in pairs:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        gradients.append(p.grad)
    if pairs:
        torch._foreach_add_(gradients, [value for _, value in pairs], alpha=factor)
