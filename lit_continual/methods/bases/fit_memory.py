"""Base class of callbacks that remember what fits have left."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class FitMemory(Callback):
    """A callback whose memory is of fits, so that no evaluation replaces it.

    ``trainer.test(ckpt_path="best")`` hands the state of a checkpoint to the callbacks too. That of one written during
    a fit is of the fit before, and the next fit would know nothing of this one.
    """

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            checkpoint.get("callbacks", {}).pop(self.state_key, None)
