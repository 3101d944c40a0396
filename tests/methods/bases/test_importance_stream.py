"""The penalties with importances, and A-GEM, in a stream of two experiences with heads that grow, and under DDP."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from lit_continual.cli import main

CALLBACKS = {
    "EWC": {"strength": 10.0},
    "EWC sampled": {"strength": 1e4, "labels": "sampled", "samples": 6},
    "EWC expected": {"strength": 1e4, "labels": "expected", "mode": "online", "samples": 6},
    "MAS": {"strength": 0.1, "samples": 6},
    "SI": {"strength": 1.0},
    "RWalk": {"strength": 0.1, "every": 3},
}


def described(name, **arguments):
    return {"class_path": name.split()[0], "init_args": {**CALLBACKS.get(name, {}), **arguments}}


def logged(run, name):
    found = []
    for path in sorted(run.rglob("lightning_logs/*/metrics.csv")):
        with path.open() as file:
            found += [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
    return found


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.slow
def test_the_second_experience_has_the_penalty_of_the_first(stream, tmp_path, name):
    options = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'run' / 'logs'}"]
    main(["fit", "--config", stream(described(name)), *options])
    states = [
        torch.load(tmp_path / "run/experiences" / folder / "model.ckpt", weights_only=True)["callbacks"]
        for folder in ("0_ball", "1_box")
    ]
    (first,), (second,) = ([v for k, v in one.items() if k.startswith(name.split()[0])] for one in states)
    head = {n for n in second["importance"] if n not in first["importance"]}
    assert len(head) == 2  # weight and bias of the new head
    assert any(value.sum() > 0 for value in first["importance"].values())
    assert all(value.isfinite().all() and value.min() >= 0 for value in second["importance"].values())
    penalties = logged(tmp_path / "run", f"train/{name.split()[0].lower()}")
    assert penalties[-1] > 0


def test_exemplars_of_a_memory_are_the_reference_of_agem(stream, tmp_path):
    memory = {"policy": "Random", "budget": {"samples": 4}, "batches": "mixed", "share": 0.5}
    options = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'run' / 'logs'}"]
    main(["fit", "--config", stream(described("AGEM"), memory=memory), *options])
    shares = logged(tmp_path / "run", "train/agem")
    assert len(shares) == 2  # the epochs of the second experience
    assert all(0 <= share <= 1 for share in shares)


SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from lit_continual.callbacks import AGEM, EWC, MAS, SI, RWalk
from tests.methods.importances import batches, network, weights

CALLBACKS = {
    "given": lambda: EWC(20.0),
    "sampled": lambda: EWC(20.0, labels="sampled", samples=7, mode="online"),
    "mas": lambda: MAS(0.5),
    "si": lambda: SI(10.0),
    "rwalk": lambda: RWalk(1.0, every=2),
    "agem": lambda: AGEM(list(zip(*batches(5).dataset.tensors)), batch_size=12),
}

def learn(make, lr, **options):
    module, callback = network(optimizer=lambda p: torch.optim.SGD(p, lr=lr)), make()
    module.head[0].p = 0.0
    module.encoder[1] = torch.nn.GroupNorm(1, 5)
    for seed in (0, 1):
        quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer = Trainer(accelerator="cpu", max_epochs=3, callbacks=[callback], **quiet, **options)
        data = batches(seed, size=13, batch_size=13 if options["devices"] == 1 else 7)
        trainer.fit(module, data)
    return {"weights": weights(module), "state": callback.state_dict()}, trainer.global_rank

if __name__ == "__main__":
    folder, processes = sys.argv[1], int(sys.argv[2])
    for name, make in CALLBACKS.items():
        strategy = {"strategy": "ddp_find_unused_parameters_true"} if processes > 1 else {}
        for lr in (0.0, 0.1):
            found, rank = learn(make, lr, devices=processes, **strategy)
            torch.save(found, f"{folder}/{name}-{lr}-{processes}-{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_agree_and_measure_each_sample_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    for processes in ("1", "2"):
        command = [sys.executable, tmp_path / "script.py", tmp_path, processes]
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=1800)
    for name in ("given", "sampled", "mas", "si", "rwalk", "agem"):
        for lr in ("0.0", "0.1"):
            ranks = [torch.load(tmp_path / f"{name}-{lr}-2-{rank}.pt", weights_only=True) for rank in (0, 1)]
            assert_close(*ranks, rtol=0, atol=0)
        one, two = (torch.load(tmp_path / f"{name}-0.0-{n}-0.pt", weights_only=True)["state"] for n in (1, 2))
        if name in ("given", "sampled", "mas"):  # thirteen samples, which two processes cannot share alike
            assert_close(one["importance"], two["importance"], rtol=1e-4, atol=1e-7)
