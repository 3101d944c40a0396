"""Weights that callbacks leave when a fit ends, whatever their order in the Trainer's list."""

from lightning.pytorch import LightningModule, Trainer


class FinalWeights:
    """A callback that looks at the weights that training has left, or changes them, when a fit ends."""

    def before_settling(self, pl_module: LightningModule) -> None:
        """Look at the weights before any callback changes them."""

    def settle(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Change them; may be called several times in a fit."""


def settle_weights(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let callbacks that change weights when a fit ends do so, before another takes them for what the fit has left.

    Args:
        trainer: The trainer, of whose callbacks those that are :class:`FinalWeights` take part: first all look.
        pl_module: The module.
    """
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
    mine = [callback for callback in callbacks if isinstance(callback, FinalWeights)]
    for callback in mine:
        callback.before_settling(pl_module)
    for callback in mine:
        callback.settle(trainer, pl_module)
