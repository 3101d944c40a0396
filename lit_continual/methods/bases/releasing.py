"""Base class of callbacks that change a module for as long as a fit or an evaluation lasts."""

from abc import abstractmethod

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class Releasing(Callback):
    """A callback that gives a module back as it was, also after an exception, when Lightning calls no ``teardown``."""

    @abstractmethod
    def release(self, pl_module: LightningModule) -> None:
        """Take back what was changed, as often as it is called."""

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.release(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.release(pl_module)
