"""The mean of something over the training samples of a fit, which a copy of the module is asked about one by one."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from tqdm.auto import tqdm

from lit_continual.files.whole_files import in_one_line
from lit_continual.methods.bases.fit.precision import wide, without_autocast
from lit_continual.methods.bases.importance.single_samples import first_sample, loads_singly, single_samples
from lit_continual.methods.bases.old_network.frozen_copy import silent_copy


class Measured(Protocol):
    """What is measured: a callback that knows it of one sample."""

    #: The name of the callback.
    who: str
    #: What a user can do where a sample cannot be measured.
    remedy: str

    def measured_parameters(self, pl_module: LightningModule) -> list[str]:
        """Return the names of the parameters that are differentiated by."""

    def blank(self, name: str, parameter: Tensor) -> Tensor:
        """Return zeros of the shape of what is measured of a parameter."""

    def measure(
        self, module: LightningModule, batch: Any, parameters: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor] | None:
        """Return what one sample says, not negative, by the name of the parameter; ``None`` to leave it out."""


class SampleMean:
    """Measure on the training samples one by one, in evaluation mode.

    A copy of the module is asked, in full precision, so that batch size, accumulation, autocast, scaling, terms of
    other callbacks and the number of processes have no part in it, and nothing of it is left.

    Args:
        measured: What is measured.
        samples: How many training samples to measure; ``None`` for all.

    Raises:
        ValueError: If ``samples`` is not positive.
    """

    def __init__(self, measured: Measured, samples: int | None) -> None:
        if samples is not None and samples < 1:
            raise ValueError(f"`samples` must be positive, or None for all training samples, got {samples}.")
        self.measured, self.samples = measured, samples
        self._tried = False

    def begin(self) -> None:
        """Forget that a sample was tried in an earlier fit."""
        self._tried = False

    def try_first(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Measure one sample of a batch, once a fit, so that what would keep the rest from it is said before training.

        Raises:
            MisconfigurationException: If a sample cannot be measured.
        """
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
                f"`{self.measured.who}` could not measure a sample by a copy of {type(pl_module).__name__} in"
                f" evaluation mode ({type(error).__name__}: {in_one_line(error)}). {self.measured.remedy}"
            ) from error

    def of_fit(self, trainer: Trainer, pl_module: LightningModule, title: str) -> dict[str, Tensor]:
        """Return the means over the samples of all processes, by the name of the parameter; empty without a sample."""
        if trainer.train_dataloader is None:  # a fit of no steps
            return {}
        samples = single_samples(trainer, self.samples)
        hidden = None if trainer.is_global_zero else True
        shown = tqdm(samples, desc=title, leave=False, disable=hidden)
        sums, counts = self._sum(trainer, pl_module, shown)
        *found, counts = (trainer.strategy.reduce(value, reduce_op="sum") for value in (*sums.values(), counts))
        used, lost = counts.tolist()
        if lost:
            rank_zero_warn(f"`{self.measured.who}` leaves out {lost:.0f} samples whose gradient is not finite.")
        return {name: value / used for name, value in zip(sums, found, strict=True)} if used else {}

    def _sum(
        self, trainer: Trainer, pl_module: LightningModule, samples: Iterable[tuple[int, Any]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Sum what the samples say; return the sums, and how many samples were used and how many not finite."""
        with isolate_rng(), torch.enable_grad(), without_autocast(trainer.precision_plugin, pl_module.device):
            copied = silent_copy(pl_module, trainer)
            found = dict(copied.named_parameters())
            parameters = {n: found[n].requires_grad_() for n in self.measured.measured_parameters(pl_module)}
            sums = {name: self.measured.blank(name, p).to(p.device, wide(p)) for name, p in parameters.items()}
            counts, generator = [0, 0], torch.Generator(pl_module.device)
            for number, sample in samples if parameters else ():
                one = self.measured.measure(copied, sample, parameters, generator.manual_seed(number))
                if one is not None:
                    finite = bool(torch.stack(torch._foreach_norm(list(one.values()))).isfinite().all())
                    counts[not finite] += 1
                    if finite:
                        torch._foreach_add_(list(sums.values()), [one[name].to(sums[name]) for name in sums])
        return sums, torch.tensor(counts, dtype=torch.float32, device=pl_module.device)
