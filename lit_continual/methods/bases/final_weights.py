"""Weights that callbacks leave when a fit ends, whatever their order in the Trainer's list."""

from lightning.pytorch import LightningModule, Trainer


def settle_weights(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let callbacks that change weights when a fit ends do so, before another takes them for what the fit has left.

    Args:
        trainer: The trainer, of whose callbacks all that have a method ``before_settling`` are called first, and then
            all that have ``settle``; both may be called several times.
        pl_module: The module.
    """
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
    for name in ("before_settling", "settle"):
        for callback in callbacks:
            method = getattr(callback, name, None)
            if method is not None:
                method(pl_module)
