"""What methods leave after a fit of two processes is what one process with batches of twice the size leaves."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

SCRIPT = """
import os
import sys
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

from lit_continual.callbacks import DarkExperienceReplay, Distillation, LoRA, WeightFusion

CALLBACKS = {
    "DarkExperienceReplay": lambda: DarkExperienceReplay(0.5, 0.5),
    "Distillation": lambda: Distillation(alpha=0.7),
    "LoRA": lambda: LoRA(rank=2, alpha=4.0, layers=["net.0"], parts=["net.2"]),
    "WeightFusion": lambda: WeightFusion(0.3),
}


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch["image"]), batch["label"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Prepared(Module):
    # Its network never sees the batch: what a teacher is asked with is what this forward was.
    def training_step(self, batch, batch_idx):
        return cross_entropy(self(3 * batch["image"].flip(-1) - 1), batch["label"])


def samples(seed, mixed):
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    origins = ["new"] * 4 + ["exemplar"] * 4
    found = [{"image": image, "label": (image[0] > 0.3 * seed).long()} for image in images]
    return [{**one, "origin": origins[k % 8]} for k, one in enumerate(found)] if mixed else found


if __name__ == "__main__":
    folder, devices = sys.argv[1], int(sys.argv[2])
    for name, make in CALLBACKS.items():
        distils = name == "Distillation"
        module, callback = Prepared() if distils else Module(), make()
        for seed in (1, 2):
            trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
                              use_distributed_sampler=False, max_epochs=2, callbacks=callback, logger=False,
                              enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                              default_root_dir=folder)
            data, rank = samples(seed, not distils), int(os.environ.get("LOCAL_RANK", 0))
            sampler = DistributedSampler(data, devices, rank, shuffle=False)  # Lightning's own shuffles
            trainer.fit(module, DataLoader(data, batch_size=4 // devices, sampler=sampler))
        state = {"weights": module.state_dict(), "callback": callback.state_dict()}
        torch.save(state, f"{folder}/{name}-{devices}-{trainer.global_rank}.pt")
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Run the script in one process and in two, and return what of a file it left."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": str(Path(sys.executable).parent)}
    for devices in ("1", "2"):
        command = [sys.executable, folder / "script.py", folder, devices]
        subprocess.run(command, check=True, cwd=folder, env=environment, timeout=1800)
    return lambda name: torch.load(folder / f"{name}.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DarkExperienceReplay", "Distillation", "LoRA", "WeightFusion"])
def test_two_processes_leave_what_one_leaves(fitted, name):
    alone, *ranks = (fitted(f"{name}-{place}") for place in ("1-0", "2-0", "2-1"))
    assert_close(ranks[0]["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
    assert_close(ranks[1]["weights"], ranks[0]["weights"], rtol=0, atol=0)
    assert ranks[0]["callback"].keys() == alone["callback"].keys()
