"""Stands in for ``lit-continual fit`` in a process: notes that it began, takes its time, and leaves a run folder."""

import csv
import json
import os
import sys
import time
from pathlib import Path


def main():
    given = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[1:])
    folder, seed = Path(given["trainer.default_root_dir"]), int(given.get("seed_everything", 0))
    name = given.get("stream.name", folder.name)
    for start in [given["stream.start"]] if "stream.start" in given else []:
        assert json.loads((Path(start).parents[2] / "run.json").read_text())["status"] == "finished", start
    with open(os.environ["FAKE_FIT_LOG"], "a") as log:
        log.write(f"{name} {seed} {os.getpid()}\n")
    (folder / "given.json").write_text(json.dumps(given))
    (folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
    (folder / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    (folder / "tracked").write_text(f"{os.environ.get('WANDB_MODE')} {os.environ.get('WANDB_RUN_GROUP')}")

    quality = 0.9 - 0.1 * abs(float(given.get("model.optimizer.lr", 0.01)) - 0.03) + 0.01 * seed
    logs = folder / "logs" / f"version_{len(list(folder.glob('logs/*')))}"
    logs.mkdir(parents=True)
    with (logs / "metrics.csv").open("w", newline="", buffering=1) as file:
        rows = csv.writer(file)
        rows.writerow(["step", "val/dice", "matrix/dice/ball", "stream/dice/acc"])
        for step in range(4):
            rows.writerow([step, quality * (step + 1) / 4, "", ""])
            time.sleep(float(given.get("seconds") or os.environ.get("FAKE_FIT_SECONDS", 0)) / 4)
        if "fail" in given or "fail" in name:
            sys.exit("lit-continual: error: There is no such thing.")
        rows.writerow([4, "", quality - 0.2, quality - 0.1])

    patients = [f"case_{i}" for i in range(6)]
    old, new = quality - 0.2 + 0.2 * (name == "LwfSeg"), quality
    table = [
        [after, on, p, "ball", {0: old, 1: new}[on] - 0.001 * i]
        for after in (0, 1)
        for on in (0, 1)
        for i, p in enumerate(patients)
    ]
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["after", "on", "patient", "class", "dice"], *table])
    (folder / "matrix.json").write_text(json.dumps({"dice": [[0.9, None], [old, new]]}))
    experiences = [
        {"name": n, "classes": [n], "checkpoint": f"experiences/{i}_{n}/model.ckpt"}
        | {"seconds": 1.0 if name == "LwfSeg" else 4.0, "memory_bytes": i * 1500000, "checkpoint_bytes": 3000000}
        for i, n in enumerate(("ball", "box"))
    ]
    run = {"format": 1, "name": name, "mode": given.get("stream.mode", "continual"), "seed": seed, "status": "finished"}
    run |= {"experiences": experiences, "scores": {"dice": {"higher_is_better": True}}}
    (folder / "run.json").write_text(json.dumps(run))


if __name__ == "__main__":
    main()
