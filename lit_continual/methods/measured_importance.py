"""Base class of the penalties whose importances are measured on samples when a fit ends."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from tqdm.auto import tqdm
from typing_extensions import override

from lit_continual.methods.anchor import select_parameters
from lit_continual.methods.forward_calls import ForwardCalls
from lit_continual.methods.frozen_copy import silent_copy
from lit_continual.methods.importance_penalty import ImportancePenalty
from lit_continual.methods.logits import LOGITS, Place, named_logits
from lit_continual.methods.precision import wide
from lit_continual.methods.single_samples import first_sample, loads_singly, single_samples
from lit_continual.methods.training_step import ask_step
from lit_continual.runs.files import in_one_line


class MeasuredImportance(ImportancePenalty):
    """Measure importances on the training samples one by one, when a fit ends, in evaluation mode.

    A copy of the module is asked, in full precision, so that batch size, accumulation, autocast, scaling, terms of
    other callbacks and the number of processes have no part in them, and nothing of it is left. In the first batch of a
    fit one sample is tried, so that what would keep the rest from being measured is said before training.

    Args:
        strength: See :class:`ImportancePenalty`.
        decay: See :class:`ImportancePenalty`.
        samples: How many training samples to measure; ``None`` for all.
        logits: How to get ``(B, C, *spatial)`` logits: called with the module and a batch. ``None`` takes what
            ``forward`` returned in ``training_step``, or what the step returns as ``outputs["logits"]``.
        parameters: See :class:`ImportancePenalty`.
        name: See :class:`ImportancePenalty`.

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
        if samples is not None and samples < 1:
            raise ValueError(f"`samples` must be positive, or None for all training samples, got {samples}.")
        self.samples, self.logits = samples, logits
        self._tried = False

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

    #: Whether ``training_step`` is asked even where ``logits`` are given.
    asks_step = False
    #: Whether the fits have one penalty each.
    separate = False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._tried = False
        if not pl_module.automatic_optimization and (self.asks_step or self.logits is None):
            raise MisconfigurationException(
                f"`{type(self).__name__}` asks `training_step`, which under manual optimization steps its optimizers."
                " Give `logits=`, a function of a module and a batch, with a setting that asks for logits."
            )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        sample = None if self._tried else first_sample(trainer, batch, self.samples)
        if sample is not None:
            self._tried = True
            # What a loader draws one by one need not be what can be taken out of a batch, such as one graph of several.
            self._try(trainer, pl_module, [sample, batch] if loads_singly(trainer.train_dataloader) else [sample])

    def _try(self, trainer: Trainer, pl_module: LightningModule, samples: list[Any]) -> None:
        try:
            self._sum(trainer, pl_module, [(0, samples[0])])
        except (MisconfigurationException, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of somebody's module, which may raise anything
            if samples[1:]:
                return self._try(trainer, pl_module, samples[1:])
            raise MisconfigurationException(
                f"`{type(self).__name__}` could not measure a sample by a copy of {type(pl_module).__name__} in"
                f" evaluation mode ({type(error).__name__}: {in_one_line(error)}). {LOGITS}"
            ) from error

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.train_dataloader is None:  # a fit of no steps
            return
        samples = single_samples(trainer, self.samples)
        hidden = None if trainer.is_global_zero else True
        shown = tqdm(samples, desc=f"Importances of {self.name}", leave=False, disable=hidden)
        sums, counts = self._sum(trainer, pl_module, shown)
        *found, counts = (trainer.strategy.reduce(value, reduce_op="sum") for value in (*sums.values(), counts))
        used, lost = counts.tolist()
        if lost:
            rank_zero_warn(f"`{type(self).__name__}` leaves out {lost:.0f} samples whose gradient is not finite.")
        if used:
            means = {name: value / used for name, value in zip(sums, found, strict=True)}
            self.consolidate(pl_module, means, self.separate)

    def _sum(
        self, trainer: Trainer, pl_module: LightningModule, samples: Iterable[tuple[int, Any]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Sum the importances by samples; return the sums, and how many samples were used and how many not finite."""
        with isolate_rng(), torch.enable_grad(), torch.autocast(pl_module.device.type, enabled=False):
            copied = silent_copy(pl_module, trainer)
            trained = [n for n, p in select_parameters(pl_module, self.patterns).items() if p.requires_grad]
            parameters = {name: copied.get_parameter(name).requires_grad_() for name in trained}
            sums = {name: torch.zeros_like(p, dtype=wide(p)) for name, p in parameters.items()}
            counts, generator = [0, 0], torch.Generator(pl_module.device)
            for number, sample in samples if parameters else ():
                found = self.measure(copied, sample, parameters, generator.manual_seed(number))
                if found is not None:
                    finite = bool(torch.stack(torch._foreach_norm(list(found.values()))).isfinite().all())
                    counts[not finite] += 1
                    if finite:
                        torch._foreach_add_(list(sums.values()), [found[name].to(sums[name]) for name in sums])
        return sums, torch.tensor(counts, dtype=torch.float32, device=pl_module.device)


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
