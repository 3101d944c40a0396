"""L2-SP on a DenseNet121 U-Net: what it adds to a training step.

Run as ``python tests/benchmarks/bench_l2sp.py``. Each round times a few steps without and with the callback, in turn,
so that load on the machine hits both alike. What is judged is the time inside the callback's own hooks over that of the
step, which other processes disturb least. CPU time of the process, and wall time.
"""

import logging
import time
import warnings

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from lit_continual.callbacks import L2SP
from lit_continual.data import collate
from lit_continual.modules import Segmenter

ROUNDS, STEPS, BATCH, SIZE, LIMIT = 3, 3, 8, 96, 1.03
NETWORK = {"_target_": "DenseNet121UNet", "decoder_channels": [128, 64, 48, 32, 24]}


def now():
    return torch.tensor([time.process_time(), time.perf_counter()], dtype=torch.float64)


class Stopwatch(Callback):
    """CPU and wall seconds of each training step but the first."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.begin = now()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx:
            self.steps.append(now() - self.begin)


class TimedL2SP(L2SP):
    """L2SP that keeps the seconds within its hooks, of each step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.inside = []

    def on_before_optimizer_step(self, *args):
        begin = now()
        super().on_before_optimizer_step(*args)
        self.inside.append(now() - begin)

    def _step_proximally(self, *args):
        begin = now()
        super()._step_proximally(*args)
        self.inside[-1] += now() - begin


def run(module, callbacks):
    watch = Stopwatch()
    sample = {"image": torch.rand(1, SIZE, SIZE), "label": torch.ones(1, SIZE, SIZE), "classes": ("a",), "patient": "p"}
    options = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(accelerator="cpu", max_steps=STEPS + 1, callbacks=[watch, *callbacks], **options)
    trainer.fit(module, DataLoader([sample] * BATCH * (STEPS + 1), batch_size=BATCH, collate_fn=collate))
    return torch.stack(watch.steps)


def main():
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Segmenter(NETWORK, features=16, heads=[["a"]], optimizer=lambda p: torch.optim.AdamW(p, weight_decay=0))
    plain, missed = [], False
    steps, inside = ({"explicit": [], "proximal": []} for _ in range(2))
    for _ in range(ROUNDS):
        plain.append(run(module, []))
        for step, found in steps.items():
            callback = TimedL2SP(8.0, parameters="encoder", step=step)
            found.append(run(module, [callback]))
            inside[step] += callback.inside[1:]
    bare = torch.cat(plain).median(0).values
    print(f"step without: {bare[0]:.3f} s CPU, {bare[1]:.3f} s wall")
    for step, found in steps.items():
        ratio = torch.cat(found).median(0).values / bare
        share = 1 + torch.stack(inside[step]).median(0).values / bare
        verdict = "ok" if share[0] <= LIMIT else "MISSED"
        missed |= verdict != "ok"
        print(f"{step}: with / without {ratio[0]:.3f} CPU, {ratio[1]:.3f} wall")
        print(f"{step}: 1 + hooks / step {share[0]:.3f} CPU, {share[1]:.3f} wall (at most {LIMIT}) {verdict}")
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
