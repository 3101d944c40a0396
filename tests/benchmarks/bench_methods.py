"""Step time of every method, relative to plain training, and whether data come as fast as they are learnt.

    python tests/benchmarks/bench_methods.py [--steps 8] [--precision bf16-mixed] [--size 96 96 96]

A step is a whole one, loss, gradient and optimizer, of a U-Net on batches that lie on the device; of two fits the
second is measured, in which methods have an old network. Replay has the same batch of exemplars beside the batch. Fits
with a method and plain ones take turns, so that what else runs on the machine slows both, and the ratio is that of the
medians over the steps: on a GPU each waited for, on a CPU in CPU time. The last table is of the loader: samples a
second that it makes of volumes on disk with 0, 2, 4 … worker processes, against those that plain training takes. A
method that passes its limit on a CPU makes the script exit with 1.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.utilities import move_data_to_device
from torch.utils.data import DataLoader

from lit_continual import callbacks as methods
from lit_continual.data import Augmentation, SegmentationDataModule, Split
from lit_continual.modules import FOMAML, Segmenter

METHODS = {
    "plain": list,
    "Distillation": lambda: [methods.Distillation()],
    "Distillation, Dice": lambda: [methods.Distillation(dice=1.0)],
    "MiB": lambda: [methods.MiB()],
    "PLOP": lambda: [methods.PLOP()],
    "ILT": lambda: [methods.ILT()],
    "L2SP": lambda: [methods.L2SP(parameters="body", anchor="last_fit")],
    "EWC": lambda: [methods.EWC(samples=2)],
    "MAS": lambda: [methods.MAS(samples=2)],
    "SI": lambda: [methods.SI()],
    "RWalk": lambda: [methods.RWalk()],
    "TGD": lambda: [methods.TargetedGradientDescent(share=0.5, after=1)],
    "TrainOnly": lambda: [methods.TrainOnly(after=1)],
    "LoRA": lambda: [methods.LoRA(after=1)],
    "WeightFusion": lambda: [methods.WeightFusion(0.5)],
    "MetaTune": lambda: [methods.MetaTune(FOMAML(), after=1)],
    "replay": list,
    "DER++": lambda: [methods.DarkExperienceReplay(beta=1.0)],
    "A-GEM": lambda: [methods.AGEM()],
    "ChannelsLast": lambda: [methods.ChannelsLast()],
    "CompiledNetwork": lambda: [methods.CompiledNetwork("body")],  # a minute or more before its first step
    "both of these": lambda: [methods.ChannelsLast(), methods.CompiledNetwork("body")],
}
ONE_HEAD = {"MiB", "PLOP", "ILT"}  # of a softmax over all classes
#: Memory of large tensors is kept and lies in large pages, as docs/large_data.md says, for plain steps too.
KEPT = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
    ":glibc.malloc.top_pad=67108864"
)
REPLAYS = {"replay", "DER++", "A-GEM"}
FOR_GPUS = {"ChannelsLast", "CompiledNetwork", "both of these"}
#: Of a CPU. What the hooks of the penalties add, which is less than such ratios show, is in bench_importance.py.
LIMITS = {"Distillation, Dice": 1.42, "replay": 2.00}
#: Of a GPU, and where there is none.
SIZES = {
    "cuda": {"batch": 2, "size": [96, 96, 96], "widths": [32, 32, 64, 128, 256, 32], "precision": "bf16-mixed"},
    "cpu": {"batch": 8, "size": [96, 96], "widths": [16, 32, 64, 128, 256, 16], "precision": "32-true"},
}


class Batches(LightningDataModule):
    """The same batch again and again, on the device; of pairs of tasks for MetaTune."""

    def __init__(self, options, classes, pairs, exemplars):
        super().__init__()
        self.options, self.classes, self.patch_size, self.pairs = options, classes, tuple(options.size), pairs
        generator = torch.Generator().manual_seed(0)
        origin = ["new"] * options.batch + ["exemplar"] * options.batch * exemplars
        image = torch.randn(len(origin), 1, *options.size, generator=generator)
        self.batch = {"image": image, "label": (image > 1).byte(), "classes": [tuple(classes)] * len(origin)}
        self.batch["origin"] = origin

    def train_dataloader(self):
        batch = move_data_to_device(self.batch, self.trainer.strategy.root_device)
        return DataLoader([[(batch, batch)] if self.pairs else batch] * (self.options.steps + 3), batch_size=None)


class Clock(Callback):
    """Seconds of each step but the first three, which warm up."""

    def __init__(self):
        self.seconds = []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.begin = now(module.device)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index >= 3:
            self.seconds.append(now(module.device) - self.begin)


def now(device):
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def segmenter(options, heads):
    seed_everything(0, verbose=False)
    network = {"class_path": "BasicUNet", "init_args": {"spatial_dims": len(options.size), "norm": "BATCH"}}
    return Segmenter({**network, "features": options.widths}, features=options.widths[-1], heads=heads)


def trainer(options, *added):
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }
    where = {"accelerator": "gpu" if options.device == "cuda" else options.device, "devices": 1}
    return Trainer(max_epochs=1, callbacks=list(added), precision=options.precision, **where, **quiet)


def steps(options, name):
    """Seconds of each step, and the largest memory of the device in bytes."""
    method, clock = METHODS[name](), Clock()
    module = segmenter(options, "shared" if name in ONE_HEAD else "separate")
    few = argparse.Namespace(**{**vars(options), "steps": 0})
    trainer(few, *method).fit(module, datamodule=Batches(few, {"first": 1}, pairs=False, exemplars=False))
    data = Batches(options, {"second": 1}, pairs=name == "MetaTune", exemplars=name in REPLAYS)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer(options, *method, clock).fit(module, datamodule=data)
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else 0
    return clock.seconds, peak


def write_volumes(folder, options):
    shape = [max(size, 2 * patch) for size, patch in zip((128, 128, 64), [*options.size, 32], strict=False)]
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for k in range(4):
        image = rng.integers(0, 100, shape).astype(np.int16)
        for kind, array in (("images", image), ("labels", (image > 50).astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"{k}.nii.gz")
    return str(folder)


def samples_a_second(options, dataset, workers):
    """Samples a second that the loader makes, after its first batch."""
    flip = {"class_path": "RandFlipd", "init_args": {"keys": ["image", "label"], "prob": 0.5, "spatial_axis": 0}}
    affine = {"class_path": "RandAffined", "init_args": {"keys": ["image", "label"], "prob": 1.0, "rotate_range": 0.2}}
    affine["init_args"]["mode"] = ["bilinear", "nearest"]
    patches = options.batch * options.steps // 4 + options.batch  # of each of four volumes
    how = {"augmentation": Augmentation((flip, affine)), "patches_per_volume": patches, "num_workers": workers}
    split = Split((1, 0, 0))
    data = SegmentationDataModule(
        dataset, list(options.size), {"label": 1}, options.batch, split, cache="disk", seed=0, **how
    )
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    begin, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch["image"])
        if count >= options.batch * options.steps:
            break
    seconds = time.perf_counter() - begin
    data.teardown("fit")
    return count / seconds


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cuda", "cpu"], default=device)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int, nargs="+")
    parser.add_argument("--widths", type=int, nargs=6)
    parser.add_argument("--precision")
    parser.add_argument("--methods", nargs="+", help=", ".join(METHODS))
    options = parser.parse_args()
    options.methods = options.methods or [name for name in METHODS if options.device == "cuda" or name not in FOR_GPUS]
    for name, value in SIZES[options.device].items():
        setattr(options, name, getattr(options, name) or value)
    if unknown := set(options.methods) - set(METHODS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.device == "cpu":
        torch.set_num_threads(1)
    what = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    print(f"{what}, {options.precision}, batches of {options.batch} x {'x'.join(map(str, options.size))}")
    print(f"{'method':18} {'plain':>9} {'step':>9} {'ratio':>6} {'memory':>9}")
    missed = False
    for name in options.methods:
        limit = LIMITS.get(name) if options.device == "cpu" else None
        turns = range(2 if limit is None else 6)  # of two, the ratio is known to a twentieth
        rounds = [(steps(options, "plain")[0], steps(options, name)) for _ in turns]
        plain = statistics.median(s for bare, _ in rounds for s in bare)
        seconds, peak = statistics.median(s for _, (its, _) in rounds for s in its), max(p for _, (_, p) in rounds)
        verdict = "" if limit is None else f"(at most {limit:.2f}) {'ok' if seconds / plain <= limit else 'MISSED'}"
        missed |= verdict.endswith("MISSED")
        times = f"{plain * 1e3:6.1f} ms {seconds * 1e3:6.1f} ms {seconds / plain:6.3f}"
        print(f"{name:18} {times} {peak / 1e6:6.0f} MB {verdict}", flush=True)
    learnt = options.batch / plain
    print(f"\nplain training takes {learnt:.1f} samples a second; the loader makes")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIT_CONTINUAL_CACHE"] = f"{folder}/cache"
        (Path(folder) / "data").mkdir()
        dataset = write_volumes(Path(folder) / "data", options)
        for workers in [n for n in (0, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]:
            made = samples_a_second(options, dataset, workers)
            print(f"{workers:3} workers {made:8.1f} a second, {made / learnt:6.2f} of what is taken", flush=True)
    raise SystemExit(missed)


if __name__ == "__main__":
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:  # glibc reads it when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GLIBC_TUNABLES": KEPT})
    main()
