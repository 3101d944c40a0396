"""What every test shares: one tiny module, one tiny data set, a trainer that writes nothing."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve shared cores
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # lightning 2.6.6 on jsonargparse 4.53

import json
import signal
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from tests.processes import REPORT, no_report

pytest_plugins = ["tests.fixtures.data", "tests.fixtures.runs"]

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # in the background of a shell; programs that tests start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


def _write_shapes(folder, cases=8, size=(16, 16, 4), seed=0, contrast=1.0):
    rng = np.random.default_rng(seed)
    x, y, _ = np.indices(size)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    affine, listed = np.diag([1.5, 1.5, 4.0, 1.0]), []
    for i in range(cases):
        label = np.zeros(size, np.uint8)
        (a, b), (c, d) = rng.integers(8, 11, 2), rng.uniform(3, 6, 2)
        label[(x >= a) & (x < a + 4) & (y >= b) & (y < b + 4)] = 2
        label[(x - c) ** 2 + (y - d) ** 2 < 9] = 1
        image = rng.normal(0, 0.1, size) + contrast * np.array([0.0, 1.0, 0.5])[label]
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / "images" / f"case_{seed}{i}.nii")
        nib.save(nib.Nifti1Image(label, affine), folder / "labels" / f"case_{seed}{i}.nii")
        listed.append({"image": f"images/case_{seed}{i}.nii", "label": f"labels/case_{seed}{i}.nii"})
    labels = {"0": "background", "1": "ball", "2": "box"}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": listed}))
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A Decathlon folder of tiny volumes with a bright ball and a dimmer box."""
    return _write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def dim_shapes(tmp_path_factory):
    """Other patients from another scanner."""
    return _write_shapes(tmp_path_factory.mktemp("data") / "dim", seed=1, contrast=-0.7)


NETWORK = {"class_path": "UNet", "init_args": {"spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}}
DISTILLATION = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}


@pytest.fixture
def stream(tmp_path, shapes):
    """Write the config of a stream of a second or two, and return its path."""

    def write(*callbacks, name="config", **stream):
        experiences = [
            {"name": "ball", "classes": {"ball": 1}, "data": {"split": {"part": [0, 2]}}},
            {"name": "box", "classes": {"box": 2}, "data": {"split": {"part": [1, 2]}}},
        ]
        adam = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
        segmenter = {"network": {**NETWORK, "norm": "INSTANCE"}, "features": 4, "optimizer": adam}
        split = {"fractions": [0.5, 0.25, 0.25]}
        data = {"dataset": str(shapes), "patch_size": [16, 16], "batch_size": 4, "split": split}
        trainer = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "callbacks": list(callbacks)}
        trainer |= {"default_root_dir": str(tmp_path / "run"), "enable_progress_bar": False}
        config = {
            "seed_everything": 0,
            "stream": {"experiences": experiences, **stream},
            "model": {"class_path": "Segmenter", "init_args": segmenter},
            "data": {"class_path": "SegmentationDataModule", "init_args": data},
            "trainer": {**trainer, "enable_model_summary": False},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(config))  # which is YAML too
        return str(path)

    return write


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["lit-continual"])  # Lightning warns of the arguments that pytest was given


@pytest.fixture
def deadline():
    """What a test asks for that waits for others in a loop: it fails after two minutes."""

    def fail(*_):
        raise TimeoutError("two minutes are over")

    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def reports():
    """What a test asks for whose runs are to be followed by their reports."""


@pytest.fixture(autouse=True)
def _no_reports(request, monkeypatch):
    if "reports" not in request.fixturenames:
        monkeypatch.setattr(REPORT, no_report)
