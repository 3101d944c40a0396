"""Targeted gradient descent: what a step costs, and what scoring costs.

Run as ``python tests/benchmarks/bench_tgd.py``. Times are of the process, in seconds, on as many threads as torch has.
A figure that passes its limit makes the script exit with 1.
"""

import logging
import resource
import statistics
import sys
import time
import warnings

import torch
from lightning.pytorch import Callback, Trainer
from monai.networks.nets import BasicUNet
from torch.utils.data import DataLoader

from lit_continual.callbacks import TargetedGradientDescent
from lit_continual.functional import kernel_sparsity_entropy
from lit_continual.methods.tgd.producers import find_producers
from lit_continual.methods.tgd.redundancy import kernel_scores
from lit_continual.modules import Denoiser

HOOKS = ("on_after_backward", "on_before_optimizer_step", "on_train_batch_end")


class Stopwatch(Callback):
    """Seconds of each training step but the first few, and of what a callback does within it."""

    def __init__(self, callback):
        self.steps, self.hooks = [], []
        for name in HOOKS:
            setattr(callback, name, self.timed(getattr(callback, name)))
        held = callback.on_fit_start

        def on_fit_start(*args):  # the hook after the optimizer's step is not Lightning's
            held(*args)
            callback._frozen.restore_parameters = self.timed(callback._frozen.restore_parameters)

        callback.on_fit_start = on_fit_start

    def timed(self, hook):
        def call(*args):
            begin = time.process_time()
            hook(*args)
            self.hooks[-1] += time.process_time() - begin

        return call

    def on_train_batch_start(self, *args):
        self.begin = time.process_time()
        self.hooks.append(0.0)

    def on_train_batch_end(self, *args):
        self.steps.append(time.process_time() - self.begin)


def step(steps=14):
    """Median seconds of a step, and of TGD's hooks in it: two fits side by side would differ by chance alone."""
    torch.manual_seed(0)
    tgd = TargetedGradientDescent(0.3, network="network")
    watch = Stopwatch(tgd)
    sample = {"image": torch.rand(3, 96, 96), "target": torch.rand(1, 96, 96)}
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=[watch, tgd], **options)
    trainer.fit(Denoiser("DnCNN"), DataLoader([sample] * 4 * steps, batch_size=4))
    return statistics.median(watch.steps[4:]), statistics.median(watch.hooks[4:])


def main():
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    begin = time.process_time()
    kernel_sparsity_entropy(torch.randn(512, 512, 3, 3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
    print(f"KSE of 512 x 512 x 3 x 3: {time.process_time() - begin:.2f} s")

    network = BasicUNet(3, 1, 2, (74, 74, 148, 296, 592, 74))
    size = sum(p.numel() for p in network.parameters()) / 1e6
    begin = time.process_time()
    producers = find_producers(network)
    traced = time.process_time() - begin
    kernel_scores(network, producers)
    scored = time.process_time() - begin
    print(f"U-Net of {size:.1f} M parameters: traced in {traced:.2f} s")

    whole, hooks = step()
    print(f"DnCNN step: {whole:.4f} s, of which TGD {hooks:.4f} s")
    figures = {
        "KSE, process peak in GiB": (peak, 2),
        "U-Net, traced and scored in s": (scored, 10),
        "DnCNN step / step without TGD": (whole / (whole - hooks), 1.05),
    }
    for name, (figure, limit) in figures.items():
        print(f"{name}: {figure:.3f} (at most {limit}) {'ok' if figure <= limit else 'MISSED'}")
    raise SystemExit(any(figure > limit for figure, limit in figures.values()))


if __name__ == "__main__":
    main()
