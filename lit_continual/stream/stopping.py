"""Signals while a trainer runs."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_continual.stream import signals


class Stopping(Callback):
    """Let SIGTERM end a fit or an evaluation at once, on all ranks, where Lightning lets it go on to the next batch."""

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.take_back()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.take_back()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.take_back()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        signals.check()

    @override
    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        signals.check()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        stop = getattr(trainer.strategy.launcher, "kill", None)
        if signals.received() and stop is not None:
            stop(signals.received())  # the ranks that this one has started
