"""Resident memory after each experience of a stream whose volumes are large.

    python tests/benchmarks/bench_stream_memory.py [--experiences 8] [--gigabytes 2] [--cache disk] [--targets cached]

Each experience has training volumes of so many gigabytes, preprocessed, of which a few slices are learnt by a network
of one layer: what is measured is what data leave behind, ``held`` without what the allocator has freed and kept for
later. The files are synthetic and lie in a temporary folder; those of all experiences are links to the same ones. If
more is held after the last experience than after the second, by a tenth of an experience (30 MB at least), the script
exits with 1, and so it does if the peak of a fit with ``cache: disk`` is more than a quarter of an experience (500 MB
at least) above what was there before.
"""

import argparse
import ctypes
import gc
import json
import os
import shutil
import tempfile
import warnings
from math import ceil
from pathlib import Path

import nibabel as nib
import numpy as np

from lit_continual import cli
from lit_continual.cli import continual_cli
from lit_continual.stream.stream_loop import StreamLoop

SHAPE = (128, 128, 128)  # of small slices: a batch of windows, whose logits grow with the heads, is little beside data
BYTES = 4 * int(np.prod(SHAPE))  # of a preprocessed volume without its label


def write_volumes(folder, experiences, count):
    """Data sets of ``count`` training volumes, one to validate and one to test on; return their folders."""
    rng, folders = np.random.default_rng(0), []
    noise = rng.integers(0, 100, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[50:75, 50:75, 40:80] = 1
    for e in range(experiences):
        listed = []
        for k in range(count + 2):
            name = f"{e}-{k}"
            for kind, first in (("image", np.roll(noise + 50 * label, k, 0)), ("label", np.roll(label, k, 0))):
                path = folder / str(e) / f"{kind}_{name}.nii"
                path.parent.mkdir(exist_ok=True)
                if e:
                    os.link(folder / "0" / f"{kind}_0-{k}.nii", path)
                else:
                    nib.save(nib.Nifti1Image(first, np.eye(4)), path)
            split = {count: "val", count + 1: "test"}.get(k, "train")
            files = {"image": f"image_{name}.nii", "label": f"label_{name}.nii"}
            listed.append({**files, "patient": name, "set": split})
        content = {"labels": {"0": "background", "1": "organ"}, "training": listed}
        (folder / str(e) / "dataset.json").write_text(json.dumps(content))
        folders.append(str(folder / str(e)))
    return folders


def config(folder, datasets, options):
    experiences = [
        {"name": f"organ {e}", "classes": {f"organ {e}": "organ"}, "data": {"dataset": dataset}}
        for e, dataset in enumerate(datasets)
    ]
    network = {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 1, "kernel_size": 3, "padding": 1}}
    distillation = {"class_path": "Distillation", "init_args": {"targets": options.targets}}
    loading = {"threads": options.threads}
    data = {"dataset": datasets[0], "patch_size": [128, 128], "batch_size": 4, "samples_per_epoch": 32}
    data |= {"split": {"key": "set"}, "cache": options.cache, "num_workers": options.workers, "loading": loading}
    trainer = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False}
    trainer |= {"default_root_dir": str(folder / "run"), "enable_model_summary": False, "callbacks": [distillation]}
    content = {
        "seed_everything": 0,
        "stream": {"experiences": experiences},
        "model": {"class_path": "Segmenter", "init_args": {"network": network, "features": 2}},
        "data": {"class_path": "SegmentationDataModule", "init_args": data},
        "trainer": trainer,
    }
    (folder / "config.yaml").write_text(json.dumps(content))
    return str(folder / "config.yaml")


def status(*names):
    """Bytes of this process, by what Linux calls them."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [1024 * int(lines[name].split()[0]) for name in names]


def measure(rows):
    """Print a row of memory for each fit of the streams from now on."""
    fit = StreamLoop._fit

    def measured(loop, index, *given):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        (before,) = status("VmRSS")
        fit(loop, index, *given)
        after, peak = status("VmRSS", "VmHWM")
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is freed and kept for later is as it happens, and bounded
        (held,) = status("VmRSS")
        rows.append((before, peak, held))
        shown = " ".join(f"{value / 1e6:9.0f}" for value in (before, peak, after, held))
        print(f"{index + 1:10} {shown}", flush=True)

    StreamLoop._fit = measured


def verdict(rows, size, cache):
    """What is wrong with the memory of a stream; nothing where nothing is."""
    grown, limit = rows[-1][2] - rows[1][2], max(0.1 * size, 30e6)
    print(f"after the last {grown / 1e6:+.0f} MB against the second, limit {limit / 1e6:.0f} MB")
    wrong = [f"memory has grown by {grown / 1e6:.0f} MB"] if grown > limit else []
    peak, limit = max(peak - before for before, peak, _ in rows[1:]), max(0.25 * size, 500e6)
    if cache == "disk":
        print(f"peak of a fit {peak / 1e6:+.0f} MB, limit {limit / 1e6:.0f} MB")
        wrong += [f"a fit with `cache: disk` takes {peak / 1e6:.0f} MB"] if peak > limit else []
    return wrong


def bench(options):
    """Run the stream; return what passed a limit, if anything did."""
    warnings.filterwarnings("ignore")
    if not Path("/proc/self/clear_refs").exists():
        print("Skipped: memory is measured on Linux.")
        return None
    count = ceil(options.gigabytes * 1e9 / BYTES)
    size = count * BYTES
    # Files of 16 bits once, the cache of one experience, which its limit bounds, and the answers to the last.
    channels = 2 * (options.experiences - 1) if options.targets == "cached" else 0
    needed = size * (0.75 + (1.3 + channels / 2) * (options.cache == "disk")) + 1e9
    folder = Path(tempfile.mkdtemp(prefix="stream-memory-"))
    try:
        if needed > shutil.disk_usage(folder).free:
            print(f"Skipped: {folder.parent} has not {needed / 1e9:.0f} GB free. Give less by --gigabytes.")
            return None
        os.environ["LIT_CONTINUAL_CACHE"] = str(folder / "cache")
        os.environ["LIT_CONTINUAL_CACHE_GB"] = str((needed - 0.75 * size) / 1e9)
        path = config(folder, write_volumes(folder, options.experiences, count), options)
        what = f"cache: {options.cache}, {options.targets} targets"
        print(f"{options.experiences} experiences of {size / 1e9:.2f} GB, {what}")
        print(f"{'experience':10} {'before':>9} {'peak':>9} {'after':>9} {'held':>9}   in MB", flush=True)
        measure(rows := [])
        continual_cli.report_of = lambda _: None
        cli.main(["fit", "--config", path])
        held = sum(file.stat().st_size for file in (folder / "cache").rglob("*.pt"))
        print(f"the cache has {held / 1e9:.2f} GB, limit {float(os.environ['LIT_CONTINUAL_CACHE_GB']):.2f} GB")
        if wrong := verdict(rows, size, options.cache):
            return f"MISSED: {'; '.join(wrong)}."
    finally:
        shutil.rmtree(folder)
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiences", type=int, default=8)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--cache", choices=["memory", "disk"], default="disk")
    parser.add_argument("--targets", choices=["online", "cached"], default="cached")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    raise SystemExit(bench(options))


if __name__ == "__main__":
    main()
