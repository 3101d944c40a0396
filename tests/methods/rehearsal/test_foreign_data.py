"""A memory around a data module of `pytorch_lightning`, in that package's Trainer."""

import pytorch_lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lit_continual.callbacks import Distillation
from lit_continual.data import Budget, ExemplarMemoryDataModule, Exemplars


class Data(pytorch_lightning.LightningDataModule):
    def __init__(self, seed):
        super().__init__()
        images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        self.items = [{"image": image, "label": (image > 0).long()} for image in images]
        self.prepared = False

    def prepare_data(self):
        self.prepared = True

    def train_dataloader(self):
        return DataLoader(self.items, batch_size=4)


class Module(pytorch_lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.origins = nn.Conv2d(1, 2, 3, padding=1), []

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, batch_idx):
        self.origins.append(set(batch.get("origin", ["none"])))
        return cross_entropy(self(batch["image"]), batch["label"][:, 0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_exemplars_come_back_in_a_trainer_of_pytorch_lightning(trainer, tmp_path):
    module, keep = Module(), Distillation()
    for name, seed in (("first", 0), ("second", 1)):
        data = ExemplarMemoryDataModule(Data(seed), tmp_path / "memory", Exemplars(budget=Budget(samples=4)), name)
        pytorch_lightning.Trainer(callbacks=[keep], **trainer.keywords).fit(module, datamodule=data)
        data.remember(module)
        assert data.data.prepared
    assert {"exemplar"} in module.origins
    assert {"new"} in module.origins
