import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lit_continual.callbacks import TargetedGradientDescent


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 1, 3)]
        self.net = nn.Sequential(*layers)

    def training_step(self, batch):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)


if __name__ == "__main__":
    seed_everything(0)
    module = Module()
    before = {name: value.clone() for name, value in module.net.state_dict().items()}
    callback = TargetedGradientDescent(0.7, network="net")
    data = DataLoader(TensorDataset(torch.randn(16, 1, 10, 10)), batch_size=2)
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, callbacks=callback, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(module, data)
    state = {"before": before, "after": module.net.state_dict(), "masks": callback.masks}
    torch.save(state, f"{sys.argv[1]}/{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_holds_on_every_rank_and_the_ranks_agree(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "PATH": str(Path(sys.executable).parent)}
    subprocess.run([sys.executable, script, tmp_path], check=True, cwd=tmp_path, env=environment, timeout=1800)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    moved = 0
    for name, free in one["masks"].items():
        before, after = one["before"][name], one["after"][name]
        assert torch.equal(after[~free.expand_as(after)], before[~free.expand_as(after)])
        moved += int((after != before).sum())
        if "num_batches" not in name and "running" not in name:  # which each process keeps for its own batches
            assert torch.equal(after, two["after"][name])
    assert moved > 0
