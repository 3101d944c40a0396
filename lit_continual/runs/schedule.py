"""Optimizer and learning-rate schedule of a fit, which is as long as the fit."""

import copy
from functools import partial
from math import ceil, isfinite
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from typing_extensions import Self, override

from lit_continual.files.whole_files import explaining
from lit_continual.runs.checkpoints.checkpointed_module import CheckpointedModule


class OfUnsaidLength(Protocol):
    """Makes a schedule whose ``T_max`` is left out."""

    def __call__(self, optimizer: Optimizer, T_max: int) -> LRScheduler: ...


#: How to make a schedule from the optimizer; a length that it leaves out is that of the fit.
Schedule = LRSchedulerCallable | OfUnsaidLength


class ScheduledModule(CheckpointedModule):
    """A module with an optimizer and a learning-rate schedule, stepped once an epoch, that its caller gives.

    Where ``total_steps`` of a ``OneCycleLR`` or ``T_max`` of a ``CosineAnnealingLR`` is left out, the schedule ends
    with the fit: with E epochs they are E + 1, one more than there are steps, and E. Lightning's ``ReduceLROnPlateau``
    looks at its ``monitor`` each time that it is measured.
    """

    optimizer: OptimizerCallable
    scheduler: Schedule | None

    def rehearse(self, data: Any, epochs: int | None) -> None:
        """Check that a fit can begin.

        Args:
            data: Its data module.
            epochs: How many; ``None`` where steps or time end it.

        Raises:
            ValueError: If it cannot.
        """
        _optimizers(self, self.scheduler if epochs else None, epochs)
        with explaining("The optimizer cannot step", "Take another.", RuntimeError):
            _require_step(self.optimizer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy all but what makes the optimizer and the schedule.

        From a config these hold all of it, loggers too, and a copy of a logger begins a run at its tracker.
        """
        copied = type(self).__new__(type(self))
        memo |= {id(self): copied, id(self.optimizer): self.optimizer, id(self.scheduler): self.scheduler}
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]  # of nn.Module
        return copied

    @override
    def configure_optimizers(self) -> Any:
        made = _optimizers(self, self.scheduler, _epochs(self.trainer) if self.scheduler is not None else None)
        if isinstance(made, dict) and (monitor := getattr(made["lr_scheduler"], "monitor", None)):
            measured = self.trainer.check_val_every_n_epoch if monitor.startswith("val/") else 1
            given = {"scheduler": made["lr_scheduler"], "monitor": monitor, "frequency": measured or 1}
            return {**made, "lr_scheduler": given}
        return made


def _optimizers(module: ScheduledModule, scheduler: Schedule | None, epochs: int | None) -> Any:
    with explaining("The optimizer cannot be made", "Correct its arguments.", ValueError, TypeError):
        optimizer = module.optimizer(module.parameters())
    if scheduler is None:
        return optimizer
    make = _of_length(scheduler, epochs)
    with explaining("The schedule cannot be made", "Correct its arguments.", ValueError, TypeError):
        schedule = make(optimizer)
    if isinstance(schedule, ReduceLROnPlateau) and not hasattr(schedule, "monitor"):
        raise ValueError(
            "`torch.optim.lr_scheduler.ReduceLROnPlateau` does not say what it looks at. Give"
            " `lightning.pytorch.cli.ReduceLROnPlateau`, and its `monitor`, such as `val/dice` with `mode: max`."
        )
    total = schedule.total_steps if isinstance(schedule, OneCycleLR) else None
    if epochs is not None and total is not None and epochs > total:
        raise ValueError(
            f"`OneCycleLR` with `total_steps: {total}` ends before the {epochs} epochs of this fit. Leave `total_steps`"
            " out, and it is as long as the fit."
        )
    return {"optimizer": optimizer, "lr_scheduler": schedule}


def _require_step(make: Any) -> None:
    """Let an optimizer step one weight with a gradient like those of any layer."""
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    make([weight]).step(lambda: torch.zeros(()))


def _of_length(scheduler: Any, epochs: int | None) -> Any:
    """Return ``scheduler`` with the length of the fit where it gives none itself."""
    given = scheduler.keywords if isinstance(scheduler, partial) else {}
    parts = (scheduler.func, *scheduler.args) if isinstance(scheduler, partial) else (scheduler,)
    kind = next((part for part in parts if isinstance(part, type)), object)
    if issubclass(kind, OneCycleLR) and given.get("total_steps") is None and given.get("epochs") is None:
        missing, more = "total_steps", 1
    elif issubclass(kind, CosineAnnealingLR) and "T_max" not in given:
        missing, more = "T_max", 0
    else:
        return scheduler
    if epochs is None:
        raise ValueError(f"`{kind.__name__}` is as long as the fit, which has no end. Give `{missing}`, or max_epochs.")
    return partial(scheduler, **{missing: epochs + more})


def _epochs(trainer: Trainer) -> int | None:
    """Epochs of the fit that a trainer is in; ``None`` for a fit that only its user ends."""
    if trainer.max_epochs not in (None, -1) and trainer.max_steps == -1:
        return trainer.max_epochs
    steps = trainer.estimated_stepping_batches
    trainer.fit_loop.setup_data()  # where Lightning did not need it for that
    if not isfinite(steps) or not isfinite(trainer.num_training_batches):
        return None
    return ceil(steps / max(1, ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)))
