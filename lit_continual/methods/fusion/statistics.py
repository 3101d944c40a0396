"""Running statistics of batch normalisations, measured anew for weights that no training has left."""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from lit_continual.methods.bases.fit.precision import without_autocast
from lit_continual.methods.bases.fit.training_step import ask_step
from lit_continual.methods.bases.old_network.frozen_copy import silent_copy


def batch_norms(module: nn.Module) -> dict[str, BatchNorm]:
    """The batch normalisations of a module that keep running statistics, by name."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, BatchNorm)}
    return {name: layer for name, layer in layers.items() if layer.running_mean is not None}


@torch.no_grad()
def measure_statistics(
    trainer: Trainer, pl_module: LightningModule, layers: Collection[str], batches: Iterable[Any]
) -> None:
    """Set running statistics of batch normalisations to their means over the batches of all processes.

    A copy of the module, in evaluation mode but for these layers and without autocast, makes its training step on each
    batch. Without a batch nothing changes.

    Args:
        trainer: The trainer of the fit.
        pl_module: The module, of which only these statistics change.
        layers: Names of the layers among :func:`batch_norms`.
        batches: What to measure on, on the device.
    """
    with isolate_rng(), without_autocast(trainer.precision_plugin, pl_module.device):
        copied = silent_copy(pl_module, trainer)
        measured = {name: layer for name, layer in batch_norms(copied).items() if name in layers}
        for layer in measured.values():
            layer.reset_running_stats()
            layer.momentum = None  # the mean over batches
            layer.train()
        for batch in batches:
            ask_step(copied, batch)
    for name, layer in measured.items():
        passes = layer.num_batches_tracked
        assert passes is not None  # as it has a mean
        counted = trainer.strategy.reduce(passes.float(), reduce_op="sum")  # none of a layer that is not in use
        for kept in ("running_mean", "running_var"):
            value = getattr(layer, kept)
            total = trainer.strategy.reduce(value * passes, reduce_op="sum")
            if counted > 0:
                getattr(pl_module.get_submodule(name), kept).copy_(total / counted)
