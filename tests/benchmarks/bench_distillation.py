"""Step time and memory of a fit, plain and with distillation, relative to a bare PyTorch loop over the same batches.

    python tests/benchmarks/bench_distillation.py

Every variant runs in short turns, one after another and many times over, and its step is the fastest of its turns in
CPU time: what else runs on the machine makes a turn slower, never faster. Memory is that of a process of its own.
"""

import argparse
import logging
import resource
import subprocess
import sys
import time
import warnings

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader

from lit_continual.callbacks import Distillation
from lit_continual.modules import Segmenter

LIMITS = {"bare": None, "plain": 1.05, "cached": 1.05, "online": 1.40}
NETWORK = {"_target_": "BasicUNet", "spatial_dims": 2, "features": [16, 32, 64, 128, 256, 16], "norm": "BATCH"}
STEPS = 6


class Batches(LightningDataModule):
    """The same batches again and again, with the teacher's answers where it was asked."""

    def __init__(self):
        super().__init__()
        image = torch.randn(8, 1, 96, 96, generator=torch.Generator().manual_seed(0))
        self.batch = {"image": image, "label": (image > 1).byte(), "classes": ["scapula"] * 8}

    def train_dataloader(self):
        return DataLoader([self.batch] * (STEPS + 1), batch_size=None)

    def cache_targets(self, key, predict):
        self.batch = {**self.batch, key: predict(self.batch["image"]).half()}


class Clock(Callback):
    """CPU seconds from the end of the first step, which warms up, to the end of the last."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 0:
            self.begin = time.process_time()
        self.seconds = time.process_time() - self.begin


def segmenter():
    torch.manual_seed(0)
    return Segmenter(NETWORK, features=16, heads=[["humerus"], ["scapula"]])


def bare(module):
    batch, optimizer, begin = Batches().batch, module.configure_optimizers(), 0.0
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        module._loss(module(batch["image"]), batch).backward()
        optimizer.step()
        begin = time.process_time() if step == 0 else begin
    return time.process_time() - begin


def fit(module, targets):
    clock = Clock()
    callbacks = [clock]
    if targets != "plain":
        callbacks.append(Distillation(targets=targets, teacher="start"))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=callbacks, enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=Batches())
    return clock.seconds


def turn(variant, module):
    return (bare(module) if variant == "bare" else fit(module, variant)) / STEPS


def peak(variant):
    return float(subprocess.check_output([sys.executable, __file__, "--only", variant], text=True).split()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", choices=LIMITS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    modules = {variant: segmenter() for variant in ([options.only] if options.only else LIMITS)}
    if options.only:
        turn(options.only, modules[options.only])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    times = {variant: [] for variant in LIMITS}
    for _ in range(options.rounds):
        for variant, module in modules.items():
            times[variant].append(turn(variant, module))
    print(f"{'variant':8} {'step':>9} {'ratio':>6} {'limit':>6} {'peak':>9}")
    for variant, limit in LIMITS.items():
        best = min(times[variant])
        ratio = best / min(times["bare"])
        print(f"{variant:8} {best * 1e3:6.0f} ms {ratio:6.3f} {limit or '':>6} {peak(variant):6.0f} MB")


if __name__ == "__main__":
    main()
