"""Targeted gradient descent: what a step costs, and what scoring costs.

Run as ``python tests/benchmarks/bench_tgd.py``. Times are of the process, in seconds, on as many threads as torch has.
"""

import resource
import statistics
import sys
import time

import torch
from lightning.pytorch import Callback, Trainer
from monai.networks.nets import BasicUNet
from torch.utils.data import DataLoader

from lit_continual.callbacks import TargetedGradientDescent
from lit_continual.functional import kernel_sparsity_entropy
from lit_continual.modules import Denoiser
from lit_continual.networks import find_producers, kernel_scores


class Stopwatch(Callback):
    """Seconds of each training step but the first few."""

    def __init__(self):
        self.seconds = []

    def on_train_batch_start(self, *args):
        self.begin = time.process_time()

    def on_train_batch_end(self, *args):
        self.seconds.append(time.process_time() - self.begin)


def step(callbacks, steps=24):
    torch.manual_seed(0)
    watch = Stopwatch()
    sample = {"image": torch.rand(3, 96, 96), "target": torch.rand(1, 96, 96)}
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=[watch, *callbacks], **options)
    trainer.fit(Denoiser("DnCNN"), DataLoader([sample] * 4 * steps, batch_size=4))
    return statistics.median(watch.seconds[4:])


def main():
    begin = time.process_time()
    kernel_sparsity_entropy(torch.randn(512, 512, 3, 3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
    print(f"KSE of 512 x 512 x 3 x 3: {time.process_time() - begin:.2f} s, process peak {peak:.2f} GiB (limit 2)")

    network = BasicUNet(3, 1, 2, (48, 48, 96, 192, 384, 48))
    size = sum(p.numel() for p in network.parameters()) / 1e6
    begin = time.process_time()
    producers = find_producers(network)
    traced = time.process_time() - begin
    kernel_scores(network, producers)
    print(f"U-Net of {size:.1f} M parameters: traced in {traced:.2f} s, traced and scored in "
          f"{time.process_time() - begin:.2f} s (limit 10)")  # fmt: skip

    without, guarded = step([]), step([TargetedGradientDescent(0.3, network="network")])
    print(f"DnCNN step: {without:.4f} s without, {guarded:.4f} s with, ratio {guarded / without:.3f} (limit 1.05)")


if __name__ == "__main__":
    main()
