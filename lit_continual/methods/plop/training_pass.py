"""One pass over the training data, as training will see them, before training."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng

from lit_continual.methods.single_samples import on_device


def training_batches(trainer: Trainer) -> Iterator[Any]:
    """Give the batches of an epoch, on the device; the random numbers of training stay what they are.

    Args:
        trainer: In a fit, whose data are set up.
    """
    count = trainer.num_training_batches
    with isolate_rng():
        batches = iter(CombinedLoader(trainer.train_dataloader, "max_size_cycle"))
        for batch, *_ in islice(batches, None if count == float("inf") else int(count)):
            yield on_device(trainer, batch)
