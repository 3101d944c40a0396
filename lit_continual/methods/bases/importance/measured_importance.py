"""Base class of the penalties whose importances are measured on samples when a fit ends."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lit_continual.methods.bases.anchor import select_parameters
from lit_continual.methods.bases.final_weights import settle_weights
from lit_continual.methods.bases.fit.after_training import on_device_of_training
from lit_continual.methods.bases.fit.forward_calls import ForwardCalls
from lit_continual.methods.bases.fit.training_step import ask_step
from lit_continual.methods.bases.importance.importance_penalty import ImportancePenalty
from lit_continual.methods.bases.importance.sample_mean import SampleMean
from lit_continual.methods.bases.old_network.logits import LOGITS, Place, named_logits


class MeasuredImportance(ImportancePenalty):
    """Measure importances on the training samples one by one, when a fit ends, by their :class:`SampleMean`.

    In the first batch of a fit one sample is tried, so that what would keep the rest from being measured is said before
    training. The other arguments are those of :class:`ImportancePenalty`.

    Args:
        samples: How many training samples to measure; ``None`` for all.
        logits: How to get ``(B, C, *spatial)`` logits: called with the module and a batch. ``None`` takes what
            ``forward`` returned in ``training_step``, or what the step returns as ``outputs["logits"]``.

    Raises:
        ValueError: If ``samples`` is not positive, and see :class:`ImportancePenalty`.
        MisconfigurationException: In the first batch, if a sample cannot be measured; under manual optimization without
            ``logits``, and see :class:`ImportancePenalty`.
    """

    def __init__(
        self,
        strength: float,
        decay: float,
        samples: int | None,
        logits: Callable[..., Tensor] | None,
        parameters: str | Sequence[str],
        name: str,
    ) -> None:
        super().__init__(strength, decay, parameters, name)
        self.samples, self.logits = samples, logits
        self.who = type(self).__name__
        self._mean = SampleMean(self, samples)

    @abstractmethod
    def measure(
        self, module: LightningModule, batch: Any, parameters: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor] | None:
        """Return the importances by one sample, not negative, by the name of the parameter; ``None`` to leave it out.

        Args:
            module: A copy of the module in evaluation mode.
            batch: One sample, on the device.
            parameters: The parameters of the copy to measure.
            generator: What random numbers are drawn from; seeded with the number of the sample.
        """

    #: What a user can do where a sample cannot be measured.
    remedy = LOGITS
    #: Whether ``training_step`` is asked even where ``logits`` are given.
    asks_step = False
    #: Whether the fits have one penalty each.
    separate = False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._mean.begin()
        if not pl_module.automatic_optimization and (self.asks_step or self.logits is None):
            raise MisconfigurationException(
                f"`{type(self).__name__}` asks `training_step`, which under manual optimization steps its optimizers."
                " Give `logits=`, a function of a module and a batch, with a setting that asks for logits."
            )

    def measured_parameters(self, pl_module: LightningModule) -> list[str]:
        """The names of the parameters that are held and trained."""
        return [n for n, p in select_parameters(pl_module, self.patterns).items() if p.requires_grad]

    def blank(self, name: str, parameter: Tensor) -> Tensor:
        """An importance of 0 for each entry of a parameter."""
        return torch.zeros_like(parameter)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._mean.try_first(trainer, pl_module, batch)

    @override
    @on_device_of_training
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        settle_weights(trainer, pl_module)
        means = self._mean.of_fit(trainer, pl_module, f"Importances of {self.name}")
        if means:
            self.consolidate(pl_module, means, self.separate)


def ask_logits(module: LightningModule, batch: Any, logits: Callable[..., Tensor] | None) -> Tensor:
    """Return the logits of a batch, in the graph, as the caller says, or as ``training_step`` makes them.

    Raises:
        MisconfigurationException: If that does not say which they are.
    """
    if logits is not None:
        return logits(module, batch)
    with ForwardCalls(module) as calls:
        outputs = ask_step(module, batch)
    call, named = calls.of(outputs), named_logits(outputs)
    if call is not None:
        return Place.of(call.output, named)(call.output)
    if named is None or not named.requires_grad:
        raise MisconfigurationException(
            f"`training_step` of {type(module).__name__} neither calls `forward` nor returns logits with a gradient."
            f" {LOGITS}"
        )
    return named
