"""The training batches of a fit, for a look at them beside training."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng


def training_batches(trainer: Trainer) -> Iterator[Any]:
    """Yield the batches of an epoch, on the device; the random numbers of training stay what they are.

    A limit of ``limit_train_batches`` holds, and of data that may have no end as many batches are drawn as the fit may
    take.
    """
    count = trainer.num_training_batches
    if count == float("inf") and trainer.max_steps != -1:
        count = trainer.max_steps * trainer.accumulate_grad_batches
    with isolate_rng():
        for batch in islice(batches_of_epoch(trainer), None if count == float("inf") else int(count)):
            yield on_device(trainer, batch)


def batches_of_epoch(trainer: Trainer) -> Iterator[Any]:
    """Yield the batches of an epoch, where there are several loaders in the mode in which the fit combines them."""
    combined = trainer.fit_loop._combined_loader  # private; a public attribute has the loaders, and not the mode
    mode: Any = "max_size_cycle" if combined is None else combined._mode
    for batch, _, _ in CombinedLoader(trainer.train_dataloader, mode):
        yield batch


def on_device(trainer: Trainer, batch: Any) -> Any:
    """Move a batch as Lightning moves those of a training step, with the hooks of the module and of the data module."""
    batch = trainer.precision_plugin.convert_input(batch)
    # Private, but nothing else asks both the module and the data module.
    batch = trainer.lightning_module._on_before_batch_transfer(batch)
    return trainer.strategy.batch_to_device(batch)
