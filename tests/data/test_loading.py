import os
import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lit_continual.data import JointDataModule, Loading, MultiTaskDataModule, SegmentationDataModule, Split
from lit_continual.data.loading import load_in_threads
from lit_continual.modules import Segmenter
from lit_continual.phantoms.pet.pet_data_module import PetDataModule


class On:
    """A trainer on a device."""

    def __init__(self, kind):
        self.strategy = type("Strategy", (), {"root_device": torch.device(kind)})


@pytest.mark.parametrize(("kind", "pins"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_memory_is_pinned_for_a_gpu_alone(kind, pins):
    assert Loading().options(0, On(kind)) == {"num_workers": 0, "pin_memory": pins}
    assert not Loading(pin_memory=False).options(0, On(kind))["pin_memory"]
    assert not Loading().options(0, None)["pin_memory"]


def test_workers_stay_and_work_ahead_as_asked():
    options = Loading(persistent_workers=False, prefetch=3).options(2, None)
    assert options == {"num_workers": 2, "pin_memory": False, "persistent_workers": False, "prefetch_factor": 3}


@pytest.fixture
def parts(decathlon):
    def make(name, **options):
        split = Split((0.5, 0.25, 0.25))
        return SegmentationDataModule(str(decathlon(8)), [12, 10], {name: name}, 4, split, num_workers=1, **options)

    return make


def test_every_data_module_hands_its_options_to_its_loader(parts, tmp_path):
    loading = Loading(prefetch=5, persistent_workers=False)
    one, other = parts("first", loading=loading), parts("second", loading=loading)
    pet = PetDataModule(
        low=[0], seconds=[60], realisations=2, size=32, depth=8, cache=tmp_path, num_workers=1, loading=loading
    )
    joint, several = JointDataModule([one, other]), MultiTaskDataModule({"a": parts("first", loading=loading)})
    for data in (one, joint, several, pet):
        data.prepare_data()
        data.setup("fit")
        loader = data.train_dataloader()
        for one in loader.flattened if hasattr(loader, "flattened") else [loader]:
            assert isinstance(one, DataLoader)
            assert (one.num_workers, one.prefetch_factor, one.persistent_workers) == (1, 5, False)


def listed(value):
    """Plain data as torch pins it: a list in place of each tuple."""
    if isinstance(value, dict):
        return {name: listed(part) for name, part in value.items()}
    return [listed(part) for part in value] if isinstance(value, (list, tuple)) else value


def test_a_pinned_batch_is_learnt_from_alike(parts):
    data = parts("first")
    data.num_workers = 0
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    network = {"class_path": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}
    module = Segmenter(network, features=4, heads=[["first"]])
    trainer = Trainer(barebones=True, accelerator="cpu")
    module.trainer, module.log = trainer, lambda *_, **__: None
    losses = [module.training_step(one, 0)["loss"] for one in (batch, listed(batch))]
    assert torch.equal(*losses)
    assert listed(batch)["classes"][0] == ["first"]


def test_results_are_in_order_whatever_the_order_of_loading():
    assert load_in_threads(lambda k: k * k, [2, 0, 1], 2, "them") == [0, 1, 4]
    assert load_in_threads(lambda k: k, [], 2, "them") == []


FORKS = """
import os
import torch
from lit_continual.data.loading import load_in_threads

torch.set_num_threads(1)  # as a run does that keeps its threads
torch.ones(400_000).sum()
for _ in range(100):
    pid = os.fork()
    if not pid:
        try:
            load_in_threads(lambda k: float(torch.linalg.det(torch.eye(3)).abs()), range(8), 8, "volumes")
        except BaseException as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.slow  # the runs that tests/stream/test_kills.py kills are such processes, too
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_forked_processes_load_in_threads():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
