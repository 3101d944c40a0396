"""What every test shares: one tiny module, one tiny data set, a trainer that writes nothing.

It imports nothing large: the process that hands tests to others reads it too, and these begin when it is through.
"""

import gc
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve shared cores
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # lightning 2.6.6 on jsonargparse 4.53

import json
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.processes import REPORT, know_once, no_report

gc.disable()  # while tests are collected: imports leave a million objects, and hardly any garbage
pytest_plugins = ["tests.fixtures.data", "tests.fixtures.runs"]

for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)  # Windows has no SIGHUP
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)  # in the background of a shell, by nohup: programs that tests start inherit it


def pytest_collection_modifyitems(items):
    """Begin with tests that fork, so that one worker alone starts what they are forked from; the longest is of them."""
    items.sort(key=lambda item: not {"processes", "Prepared", "context"} & vars(getattr(item, "module", item)).keys())


def pytest_collection_finish():
    gc.freeze()  # what is there now stays, and need not be looked through again
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _known_once():
    with pytest.MonkeyPatch.context() as patch:
        know_once(patch.setattr)
        yield


@pytest.fixture
def module():
    from lightning.pytorch import seed_everything

    from tests.tiny import TinyModule

    seed_everything(0, verbose=False)
    return TinyModule()


@pytest.fixture
def loader():
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    generator = torch.Generator().manual_seed(0)
    data = torch.randn(12, 4, generator=generator), torch.randn(12, 2, generator=generator)
    return DataLoader(TensorDataset(*data), batch_size=2)


@pytest.fixture
def trainer(tmp_path):
    from lightning.pytorch import Trainer

    return partial(
        Trainer,
        default_root_dir=tmp_path,
        max_epochs=1,
        accelerator=os.environ.get("TEST_ACCELERATOR", "cpu"),
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.fixture
def golden():
    import numpy as np

    return lambda name: dict(np.load(Path(__file__).parent / "golden" / f"{name}.npz"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A Decathlon folder of tiny volumes with a bright ball and a dimmer box."""
    from tests.tiny import write_shapes

    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def dim_shapes(tmp_path_factory):
    """Other patients from another scanner."""
    from tests.tiny import write_shapes

    return write_shapes(tmp_path_factory.mktemp("data") / "dim", seed=1, contrast=-0.7)


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
    """What a test asks for that waits for others in a loop: it fails after ten minutes."""

    def fail(*_):
        raise TimeoutError("ten minutes are over")

    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def reports():
    """What a test asks for whose runs are to be followed by their reports."""


#: One white dot.
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


@pytest.fixture
def undrawn(monkeypatch):
    """What a test asks for whose pictures nobody looks at: laying them out and drawing takes longer than all else."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: file.write(DOT))


@pytest.fixture(autouse=True)
def _no_reports(request, monkeypatch):
    if "reports" not in request.fixturenames:
        monkeypatch.setattr(REPORT, no_report)
