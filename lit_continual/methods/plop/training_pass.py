"""One pass over the training data, as training will see them, before training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden


def training_batches(trainer: Trainer) -> Iterator[Any]:
    """Give the batches of an epoch, on the device; the random numbers of training stay what they are.

    Args:
        trainer: In a fit, whose data are set up.
    """
    count, data = trainer.num_training_batches, getattr(trainer, "datamodule", None)
    hooked = data if data is not None and is_overridden("on_before_batch_transfer", data) else trainer.lightning_module
    with _own_random_numbers(trainer.strategy.root_device):
        batches = iter(CombinedLoader(trainer.train_dataloader, "max_size_cycle"))
        for batch, *_ in islice(batches, None if count == float("inf") else int(count)):
            prepared = hooked.on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), 0)
            yield trainer.strategy.batch_to_device(prepared)


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
