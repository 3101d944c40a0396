"""A module's own training step, asked beside training."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
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
    return step(*(batch, 0)[: count_arguments(step)])


def count_arguments(step: Callable[..., Any]) -> int:
    """How many of a batch and its number a step takes, as Lightning counts them.

    Example:
        >>> count_arguments(lambda batch, **options: None), count_arguments(lambda *given: None)
        (1, 2)
    """
    kinds = [parameter.kind for parameter in signature(step).parameters.values()]
    if Parameter.VAR_POSITIONAL in kinds:
        return 2
    return min(2, sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds))


def loss_of(outputs: Any) -> Any:
    """The loss that a step returns, as it is or in a mapping; ``None`` where it returns none."""
    return outputs.get("loss") if isinstance(outputs, Mapping) else outputs
