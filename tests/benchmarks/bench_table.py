"""A table of 24 tiny runs: how much of its time is not training, forked and with a process of its own for each.

Run as ``python tests/benchmarks/bench_table.py``, or with a number of runs. The limit is on the CPU time of a run,
forked relative to unforked: imports are most of the difference, and other processes on the machine do not change it.
Wall time is shown.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

RUNS, WORKERS, LIMIT = 24, 2, 0.7  # what is left of a run is the parser, evaluation and the report


def write_table(folder, runs):
    """A table of many seeds on a few slices, each run of a second."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / "data" / kind).mkdir(parents=True)
    listed = []
    for i in range(8):
        label = (np.indices((16, 16, 4))[0] > 8).astype(np.uint8)
        image = (label + rng.normal(0, 0.1, label.shape)).astype(np.float32)
        entry = {kind: f"{kind}s/case_{i}.nii" for kind in ("image", "label")}
        for kind, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "data" / entry[kind])
        listed.append(entry)
    labels = {"0": "background", "1": "half"}
    (folder / "data/dataset.json").write_text(json.dumps({"labels": labels, "training": listed}))
    network = {"class_path": "UNet", "init_args": {"spatial_dims": 2, "in_channels": 1, "channels": [4, 8]}}
    network["init_args"] |= {"strides": [2], "norm": "INSTANCE"}
    adam = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    data = {"dataset": str(folder / "data"), "patch_size": [16, 16], "batch_size": 4}
    config = {
        "stream": {"experiences": [{"name": "half", "classes": {"half": 1}}]},
        "model": {"class_path": "Segmenter", "init_args": {"network": network, "features": 4, "optimizer": adam}},
        "data": {"class_path": "SegmentationDataModule", "init_args": data},
        "trainer": {"accelerator": "cpu", "max_epochs": 5},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    table = {"methods": {"fine-tuning": {"config": "config.yaml"}}, "seeds": list(range(runs))}
    (folder / "table.yaml").write_text(json.dumps({**table, "columns": {"half": {"experience": "half"}}}))
    return folder / "table.yaml"


def measured(table, output, *options):
    """Wall and CPU seconds of a table, those of its training, and its matrices."""
    arguments = ["compare", "--config", table, "--output", output, f"--workers={WORKERS}", *options]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    pid = os.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-m", "lit_continual", *map(str, arguments)])
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit("The table failed.")
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    runs = sorted(output.glob("all/*/*/run.json"))
    training = sum(e["seconds"] for run in runs for e in json.loads(run.read_text())["experiences"])
    return wall, cpu, training, [(run.parent / "matrix.json").read_text() for run in runs]


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder), runs)
        none = measured(table, Path(folder) / "none", "--workers=0")[1]
        found = {
            name: measured(table, Path(folder) / name, *options)
            for name, options in {"forked": (), "each for itself": ("--new-processes",)}.items()
        }
    for name, (wall, cpu, training, _) in found.items():
        beside = 1 - training / (WORKERS * wall)
        each = f"{(cpu - none) / runs:.1f} s CPU a run"
        print(f"{name}: {runs} runs in {wall:.0f} s, {training:.0f} s of training; {beside:.0%} is not; {each}")
    ratio = (found["forked"][1] - none) / (found["each for itself"][1] - none)
    same = found["forked"][3] == found["each for itself"][3]
    verdict = "ok" if ratio <= LIMIT and same else "MISSED"
    print(f"CPU, forked / each for itself {ratio:.2f} (at most {LIMIT}); matrices {'the same' if same else 'DIFFER'}")
    print(verdict)
    raise SystemExit(verdict != "ok")


if __name__ == "__main__":
    main()
