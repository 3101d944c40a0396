"""What every test shares: one tiny module, one tiny data set, a trainer that writes nothing."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve shared cores

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset


class TinyModule(LightningModule):
    """One linear layer under MSE; ``extra`` is the term that a callback should reproduce."""

    def __init__(self, extra=None):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.extra = extra

    def training_step(self, batch):  # No `batch_idx`: Lightning allows it, so every wrapper must.
        loss = mse_loss(self.layer(batch[0]), batch[1])
        return loss if self.extra is None else loss + self.extra(self, batch)

    def forward(self, x):
        return self.layer(x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def module():
    seed_everything(0, verbose=False)
    return TinyModule()


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(12, 4, generator=generator), torch.randn(12, 2, generator=generator)
    return DataLoader(TensorDataset(*data), batch_size=2)


@pytest.fixture
def trainer(tmp_path):
    return partial(
        Trainer,
        default_root_dir=tmp_path,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.fixture
def golden():
    return lambda name: dict(np.load(Path(__file__).parent / "golden" / f"{name}.npz"))
