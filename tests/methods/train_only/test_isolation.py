"""A frozen body with a new head, or a decoder, for each experience: nothing is forgotten, to the last bit."""

import copy
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import TrainOnly
from lit_continual.cli import main
from lit_continual.modules import Segmenter
from tests.marks import slow_but

ISOLATION = {"class_path": "TrainOnly", "init_args": {"after": 1, "hold_statistics": True}}
NAMES = ("0_ball", "1_box", "2_sphere")


@pytest.mark.parametrize("dims", slow_but([2, 3], 2))
def test_a_stream_of_three_experiences_forgets_exactly_nothing(stream, tmp_path, dims):
    path = Path(stream(ISOLATION))
    config = json.loads(path.read_text())
    network = config["model"]["init_args"]["network"]
    network["norm"], network["init_args"]["spatial_dims"] = "BATCH", dims  # with statistics, which must be held
    config["data"]["init_args"]["patch_size"] = [16, 16, 4][:dims]
    third = {"name": "sphere", "classes": {"sphere": "ball"}, "data": {"split": {"part": [0, 2]}}}
    config["stream"]["experiences"].append(third)
    path.write_text(json.dumps(config))
    main(["fit", "--config", str(path), "--trainer.max_epochs=1"])
    image = torch.randn(2, 1, *[16, 16, 4][:dims], generator=torch.Generator().manual_seed(0))
    modules = [Segmenter.load_from_checkpoint(tmp_path / f"run/experiences/{name}/model.ckpt").eval() for name in NAMES]
    with torch.no_grad():
        logits = [module(image) for module in modules]
    assert [one.shape[1] for one in logits] == [2, 4, 6]
    assert torch.equal(logits[1][:, :2], logits[0])
    assert torch.equal(logits[2][:, :4], logits[1])
    matrix = json.loads((tmp_path / "run/matrix.json").read_text())
    for rows in matrix.values():
        assert rows[0][0] == rows[1][0] == rows[2][0]
        assert rows[1][1] == rows[2][1]
    heads = [module.heads.layers[-1].weight for module in modules]
    assert all((head != heads[0]).any() for head in heads[1:])


class Hydra(LightningModule):
    """Somebody's network with an encoder for all, and a decoder for each task."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.decoders = nn.ModuleList()
        self.grow()

    def grow(self):
        block = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
        self.decoders.append(nn.Sequential(*block))

    def forward(self, image, task):
        return self.decoders[task](self.encoder(image))

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0], -1), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}], ids=["plain", "bf16"])
def test_a_new_decoder_leaves_the_old_ones_as_they_were(trainer, options):
    image = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    callback, module, answers = TrainOnly(after=1, hold_statistics=True), Hydra(), []
    for task in range(3):
        if task:
            module.grow()
        before = copy.deepcopy(module.decoders[task].state_dict())
        data = TensorDataset(image, (image[:, 0] > task / 3).long())
        trainer(callbacks=callback, max_epochs=2, **options).fit(module, DataLoader(data, batch_size=4))
        module.eval()
        with torch.no_grad():
            found = [module(image, k) for k in range(task + 1)]
        module.train()
        assert all(torch.equal(one, was) for one, was in zip(found, answers, strict=False))
        answers = found
        assert all(not torch.equal(v, before[n]) for n, v in module.decoders[task].state_dict().items())
