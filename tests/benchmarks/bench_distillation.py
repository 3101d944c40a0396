"""Step time and memory of a fit, plain and with distillation, relative to a bare PyTorch loop over the same batches.

    python tests/benchmarks/bench_distillation.py

Each step of a fit is followed by one of the bare loop, so that what else runs on the machine slows both; the ratio is
the median of those of such pairs, in CPU time, which has the limit, and by the clock on the wall. Memory is that of a
process of its own. A variant that passes its limit makes the script exit with 1.
"""

import argparse
import logging
import resource
import statistics
import subprocess
import sys
import time
import warnings

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader

from lit_continual.callbacks import Distillation
from lit_continual.modules import Segmenter

LIMITS = {"plain": 1.05, "cached": 1.05, "online": 1.40}
NETWORK = {"_target_": "BasicUNet", "spatial_dims": 2, "features": [16, 32, 64, 128, 256, 16], "norm": "BATCH"}
CLOCKS = {"CPU": time.process_time, "wall": time.perf_counter}


class Batches(LightningDataModule):
    """The same batches again and again, with the teacher's answers where it was asked."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        image = torch.randn(8, 1, 96, 96, generator=torch.Generator().manual_seed(0))
        self.batch = {"image": image, "label": (image > 1).byte(), "classes": [("scapula",)] * 8}

    def train_dataloader(self):
        return DataLoader([self.batch] * (self.steps + 1), batch_size=None)

    def cache_targets(self, key, predict):
        self.batch = {**self.batch, key: predict(self.batch["image"]).half()}


class Pairs(Callback):
    """After each step of the fit, one of the bare loop; the seconds of both by each clock."""

    def __init__(self):
        self.module, self.batch = segmenter(), Batches(0).batch
        self.optimizer = self.module.configure_optimizers()
        self.seconds = []  # of each step: clock -> (fit, bare)

    def step(self):
        self.optimizer.zero_grad()
        self.module.batch_loss(self.module(self.batch["image"]), self.batch).backward()
        self.optimizer.step()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        end = now()
        self.step()
        if batch_idx:  # the first step warms up
            after = now()
            self.seconds.append({c: (end[c] - self.begin[c], after[c] - end[c]) for c in CLOCKS})
        self.begin = now()

    def medians(self, clock):
        fit, bare = zip(*(pair[clock] for pair in self.seconds), strict=True)
        ratios = [one / other for one, other in zip(fit, bare, strict=True)]
        return statistics.median(fit), statistics.median(bare), statistics.median(ratios)


def now():
    return {name: clock() for name, clock in CLOCKS.items()}


def segmenter():
    torch.manual_seed(0)
    return Segmenter(NETWORK, features=16, heads=[["humerus"], ["scapula"]])


def fit(variant, *callbacks, steps):
    callbacks = [*callbacks]
    if variant != "plain":
        callbacks.insert(0, Distillation(targets=variant, teacher="start"))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=callbacks, enable_model_summary=False, **quiet)
    trainer.fit(segmenter(), datamodule=Batches(steps))


def peak(variant):
    return float(subprocess.check_output([sys.executable, __file__, "--only", variant], text=True).split()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", choices=["bare", *LIMITS])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if options.only:
        Pairs().step() if options.only == "bare" else fit(options.only, steps=2)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    print(f"{'variant':8} {'bare':>7} {'fit':>7} {'ratio':>6} {'wall':>6} {'limit':>6} {'peak':>8}")
    print(f"{'bare':8} {'':7} {'':7} {1:6.3f} {1:6.3f} {'':6} {peak('bare'):5.0f} MB")
    missed = False
    for variant, limit in LIMITS.items():
        fit(variant, pairs := Pairs(), steps=options.steps)
        (mine, bare, ratio), wall = pairs.medians("CPU"), pairs.medians("wall")[-1]
        times = f"{bare * 1e3:4.0f} ms {mine * 1e3:4.0f} ms {ratio:6.3f} {wall:6.3f}"
        verdict = "ok" if ratio <= limit else "MISSED"
        missed |= verdict != "ok"
        print(f"{variant:8} {times} {limit:6.2f} {peak(variant):5.0f} MB  {verdict}", flush=True)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
