"""The running statistics of a fused network are those that torch measures for an average of weights."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import WeightFusion

KEPT = ("running_mean", "running_var")


class Deep(LightningModule):
    """Two batch normalisations, so that the second sees what the first makes of fused weights, and a dropout."""

    def __init__(self, dims=2):
        super().__init__()
        torch.manual_seed(0)
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        first = convolution(1, 4, 3, padding=1), norm(4), nn.ReLU(), nn.Dropout(0.5)
        self.net = nn.Sequential(*first, convolution(4, 4, 3, padding=1), norm(4), nn.ReLU(), convolution(4, 2, 1))

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


def batches(seed=1, dims=2, size=4):
    image = torch.randn(8, 1, *[6] * dims, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(image, (image[:, 0] > 0).long()), batch_size=size)


def statistics(module):
    return {name: value.clone() for name, value in module.state_dict().items() if name.endswith(KEPT)}


def expected(module, loader):
    """What torch measures for these weights, without a dropout."""
    copied = copy.deepcopy(module)
    copied.net[3].p = 0.0
    update_bn([image for image, _ in loader], copied)
    return statistics(copied)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}], ids=str)
def test_they_are_measured_on_the_training_batches(trainer, dims, options):
    module = Deep(dims)
    trainer(callbacks=WeightFusion(0.5, old="start"), max_epochs=2, **options).fit(module, batches(dims=dims))
    assert_close(statistics(module), expected(module, batches(dims=dims)), rtol=1e-5, atol=1e-6)
    assert module.net[1].momentum == 0.1
    assert module.net[1].training


def test_a_limit_of_batches_holds(trainer):
    module = Deep()
    fusion = WeightFusion(0.5, old="start")
    trainer(callbacks=fusion, limit_train_batches=1).fit(module, batches(size=2))
    assert_close(statistics(module), expected(module, list(batches(size=2))[:1]), rtol=1e-5, atol=1e-6)


def test_weights_and_random_numbers_are_those_without_a_measurement(trainer):
    fitted, random = [], []
    for how in ("fused", "measured"):
        module = Deep()
        trainer(callbacks=WeightFusion(0.5, old="start", statistics=how)).fit(module, batches())
        fitted.append(dict(module.named_parameters()))
        random.append(torch.rand(3))
    assert_close(*fitted, rtol=0, atol=0)
    assert torch.equal(*random)


class Held(Deep):
    """Whose first normalisation a project keeps as it was."""

    def on_train_epoch_start(self):
        self.net[1].eval()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_a_fit_has_not_moved_stays(trainer, share):
    plain = Held()
    trainer().fit(plain, batches())
    module = Held()  # seeds the dropout, as before the plain fit
    before = statistics(module)
    trainer(callbacks=WeightFusion(share, old="start")).fit(module, batches())
    for kept in KEPT:
        assert torch.equal(statistics(module)[f"net.1.{kept}"], before[f"net.1.{kept}"])
        assert torch.equal(statistics(module)[f"net.5.{kept}"], statistics(plain)[f"net.5.{kept}"]) == (share == 1)


class Manual(Deep):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class OnlyInTraining(Deep):
    def training_step(self, batch, batch_idx):
        if not self.training:
            raise RuntimeError("this step is one of training")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "reason"),
    [(Manual, "under manual optimization steps its optimizers"), (OnlyInTraining, "is one of training")],
)
def test_a_module_that_cannot_be_measured_is_refused_before_it_is_trained(trainer, module, reason):
    refused = module()
    before = copy.deepcopy(refused.state_dict())
    with pytest.raises(MisconfigurationException, match=rf"{reason}.*Set\s+`statistics='fused'`"):
        trainer(callbacks=WeightFusion(0.5, old="start")).fit(refused, batches())
    assert_close(refused.state_dict(), before, rtol=0, atol=0)


SCRIPT = """
import os
import sys

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, DistributedSampler

from lit_continual.callbacks import WeightFusion
from tests.methods.fusion.test_statistics import Deep, batches

module, data = Deep(), batches().dataset
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, use_distributed_sampler=False,
                  callbacks=WeightFusion(0.5, old="start"), logger=False, enable_checkpointing=False)
sampler = DistributedSampler(data, 2, int(os.environ.get("LOCAL_RANK", 0)), shuffle=False)
trainer.fit(module, DataLoader(data, batch_size=2, sampler=sampler))
torch.save(module.state_dict(), f"{sys.argv[1]}/{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_measure_on_the_batches_of_both(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, tmp_path / "script.py", tmp_path]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=1800)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_close(first, second, rtol=0, atol=0)
    module = Deep()
    module.load_state_dict(first)
    images, labels = batches().dataset.tensors
    both = [(images[rows], labels[rows]) for rows in ([0, 2], [4, 6], [1, 3], [5, 7])]
    assert_close(statistics(module), expected(module, both), rtol=1e-5, atol=1e-6)
