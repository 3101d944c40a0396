"""A module's own training step, asked beside training."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from lightning.pytorch import LightningModule

from lit_continual.methods.bases.fit.replaced_method import ReplacedMethod


def ask_step(module: LightningModule, batch: Any) -> Any:
    """Call a module's own ``training_step``, without the terms of callbacks; it may take the number of a batch or not.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> import torch
        >>> sorted(ask_step(BoringModel(), torch.ones(2, 32)))
        ['loss']
    """
    step: Any = module.training_step
    while isinstance(step, ReplacedMethod):
        step = step.original
    return step(*[batch, 0][: len(signature(step).parameters)])


def loss_of(outputs: Any) -> Any:
    """The loss that a step returns, as it is or in a mapping; ``None`` where it returns none."""
    return outputs.get("loss") if isinstance(outputs, Mapping) else outputs
