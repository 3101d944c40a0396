"""Importances and A-GEM on a DenseNet121 U-Net: what they add to a training step.

Run as ``python tests/benchmarks/bench_importance.py``. Each round times a few steps without a callback and with each,
in turn, so that load on the machine hits all alike; each callback has a fit behind it, and so a penalty. What is judged
is the time inside the callback's own hooks over that of the step, in CPU time of the process. SI and RWalk note each
step beside their penalty, and A-GEM goes through the network once more.
"""

import logging
import time
import warnings

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from lit_continual.callbacks import AGEM, EWC, MAS, SI, RWalk
from lit_continual.data import collate
from lit_continual.modules import Segmenter

ROUNDS, STEPS, BATCH, SIZE = 3, 3, 8, 96
LIMITS = {"EWC": 1.03, "MAS": 1.03, "SI": 1.06, "RWalk": 1.10, "AGEM": 2.30}
NETWORK = {"_target_": "DenseNet121UNet", "decoder_channels": [128, 64, 48, 32, 24]}
HOOKS = ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"]


class Stopwatch(Callback):
    """CPU seconds of each training step but the first."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.begin = time.process_time()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(time.process_time() - self.begin)


def timed(callback):
    """Note the seconds within the hooks of a callback, of each step."""
    callback.inside = []

    def replace(hook):
        original = getattr(callback, hook)

        def measured(*args):
            begin = time.process_time()
            original(*args)
            spent = time.process_time() - begin
            if hook == HOOKS[0]:
                callback.inside.append(spent)
            else:
                callback.inside[-1] += spent

        setattr(callback, hook, measured)

    for hook in HOOKS:
        replace(hook)
    return callback


def samples(count):
    one = {"image": torch.rand(1, SIZE, SIZE), "label": torch.ones(1, SIZE, SIZE), "classes": ("a",), "patient": "p"}
    return [one] * count


def run(module, callbacks, steps=STEPS + 1, batch=BATCH):
    watch = Stopwatch()
    options = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=[watch, *callbacks], **options)
    trainer.fit(module, DataLoader(samples(batch * steps), batch_size=batch, collate_fn=collate))
    return watch.steps[1:]


def main():
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Segmenter(NETWORK, features=16, heads=[["a"]], optimizer=lambda p: torch.optim.AdamW(p, weight_decay=0))
    made = [EWC(samples=1), MAS(samples=1), SI(), RWalk(), AGEM(samples(BATCH), batch_size=BATCH)]
    callbacks = {type(callback).__name__: timed(callback) for callback in made}
    plain, inside, missed = [], {name: [] for name in callbacks}, False
    for callback in callbacks.values():
        run(module, [callback], steps=1, batch=1)
    for _ in range(ROUNDS):
        plain += run(module, [])
        for name, callback in callbacks.items():
            callback.inside.clear()
            run(module, [callback])
            inside[name] += callback.inside[1:]
    bare = torch.tensor(plain).median()
    print(f"step without: {bare:.3f} s CPU")
    for name, found in inside.items():
        share = 1 + torch.tensor(found).median() / bare
        verdict = "ok" if share <= LIMITS[name] else "MISSED"
        missed |= verdict != "ok"
        print(f"{name:6} 1 + hooks / step {share:.3f} CPU (at most {LIMITS[name]:.2f}) {verdict}", flush=True)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
