"""Optimizer and learning-rate schedule of a fit, which is as long as the fit."""

from functools import partial
from math import ceil, isfinite
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR


class OfUnsaidLength(Protocol):
    """Makes a schedule whose ``T_max`` is left out."""

    def __call__(self, optimizer: Optimizer, T_max: int) -> LRScheduler: ...  # noqa: N803  # torch's name


#: How to make a schedule from the optimizer; a length that it leaves out is that of the fit.
Schedule = LRSchedulerCallable | OfUnsaidLength


def optimizers(module: LightningModule, optimizer: OptimizerCallable, scheduler: Schedule | None) -> Any:
    """Return what ``configure_optimizers`` returns: an optimizer, and the schedule that is stepped once an epoch.

    Where ``total_steps`` of a ``OneCycleLR`` or ``T_max`` of a ``CosineAnnealingLR`` is left out, the schedule ends
    with the fit: with E epochs they are E + 1, one more than there are steps, and E.

    Raises:
        ValueError: If the learning rate is out of range, or the schedule is too short for the fit.
    """
    made = optimizer(module.parameters())
    if scheduler is None:
        return made
    epochs = _epochs(module.trainer) if module._trainer is not None else None
    schedule = _of_length(scheduler, epochs)(made)
    total = getattr(schedule, "total_steps", None)
    if epochs is not None and isinstance(schedule, OneCycleLR) and epochs > int(total or 0):
        raise ValueError(
            f"`OneCycleLR` with `total_steps: {total}` ends before the {epochs} epochs of this fit. Leave `total_steps`"
            " out, and it is as long as the fit."
        )
    return {"optimizer": made, "lr_scheduler": schedule}


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
    if not isfinite(steps):
        return None
    return ceil(steps / max(1, ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)))
