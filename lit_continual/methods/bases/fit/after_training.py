"""Where a module lies when callbacks look at what training has left."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning.pytorch import LightningModule, Trainer

Hook = Callable[[Any, Trainer, LightningModule], None]


def on_device_of_training(hook: Hook) -> Hook:
    """Let ``on_fit_end`` of a callback find the module on the device that it was trained on.

    Lightning has moved it to the CPU by then, and not what callbacks hold beside it, such as anchors and sums; batches
    come to the device too, and processes that talk over NCCL send from nowhere else. Afterwards it is where it was.
    """

    @wraps(hook)
    def moved(callback: Any, trainer: Trainer, pl_module: LightningModule) -> None:
        before = pl_module.device
        pl_module.to(trainer.strategy.root_device)
        try:
            hook(callback, trainer, pl_module)
        finally:
            pl_module.to(before)

    return moved
