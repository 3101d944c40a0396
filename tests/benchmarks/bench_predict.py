"""`predict` of a volume of 512 x 512 x 600 by a segmenter of five heads: its memory, and its time beside the network's.

Run as ``python tests/benchmarks/bench_predict.py [--size H W D] [--heads N] [--spacing MM] [--window N]``. What is
judged: the peak of resident memory above that of the process with the checkpoint opened, which may be that of a batch
of windows and 4 times the float32 image; and the CPU time of all that comes after the image has been read, which may be
1.1 times that of the network's passes within it. Reading and writing are shown. Memory of a batch of windows is taken
in a process of its own.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from lit_continual.modules import Segmenter
from lit_continual.tools import predict as tool

MEMORY, TIME, BATCH, FEATURES = 4.0, 1.1, 2, 8
NETWORK = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "channels": [8, 8], "strides": [1]}


def peak():
    """The highest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_volume(path, size):
    """A volume as from a scanner: integers under a header that scales, flipped as DICOM is."""
    block = np.random.default_rng(0).integers(0, 2000, (64, 64, 64), dtype=np.int16)
    volume = np.tile(block, [-(-n // 64) for n in size])[tuple(map(slice, size))]
    image = nib.Nifti1Image(volume, np.diag([-0.8, -0.8, 1.0, 1.0]))
    image.header.set_slope_inter(1.0, -1024.0)
    nib.save(image, path)


def write_checkpoint(path, heads, window, spacing):
    torch.manual_seed(0)
    module = Segmenter(NETWORK, FEATURES, [[f"organ{k}"] for k in range(heads)], roi_size=[window] * 3)
    preprocessing = {"orientation": "RAS", "spacing": [spacing] * 3 if spacing else None}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save({**content, "datamodule_hyper_parameters": {"preprocessing": preprocessing}}, path)


class Watch:
    """CPU and wall seconds within a function."""

    def __init__(self):
        self.cpu = self.wall = 0.0

    def around(self, function):
        def watched(*args, **kwargs):
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.cpu += time.process_time() - cpu
                self.wall += time.perf_counter() - wall

        return watched


def passes_of_a_batch(heads, window):
    module = Segmenter(NETWORK, FEATURES, [[f"organ{k}"] for k in range(heads)], roi_size=[window] * 3).eval()
    before = peak()
    with torch.inference_mode():
        module(torch.rand(BATCH, 1, *[window] * 3))
    return {"peak": peak() - before}


def predicted(folder):
    watches = {name: Watch() for name in ("passes", "reading", "writing", "all")}
    Segmenter.forward = watches["passes"].around(Segmenter.forward)
    tool.loader_of = (lambda make: lambda *args: watches["reading"].around(make(*args)))(tool.loader_of)
    tool.write_nifti = watches["writing"].around(tool.write_nifti)
    torch.load(folder / "model.ckpt", weights_only=True)
    before = peak()
    options = {
        "accelerator": "cpu",
        **({"sw_batch_size": BATCH} if "sw_batch_size" in tool.predict.__annotations__ else {}),
    }
    watches["all"].around(tool.predict)(
        str(folder / "model.ckpt"), str(folder / "images"), str(folder / "out"), **options
    )
    return {"peak": peak() - before, **{name: [watch.cpu, watch.wall] for name, watch in watches.items()}}


def child(*args):
    command = [sys.executable, __file__, *map(str, args)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(given):
    window, image = given.window, 4 * float(np.prod(given.size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        write_volume(folder / "images/case.nii.gz", given.size)
        write_checkpoint(folder / "model.ckpt", given.heads, window, given.spacing)
        batch = child("--only-batch", "--heads", given.heads, "--window", window)["peak"]
        found = child("--only-predict", folder)
    (cpu, wall), others = found["all"], [found[name] for name in ("passes", "reading", "writing")]
    passes = others[0]
    own = [total - reading for total, reading in zip((cpu, wall), others[1], strict=True)]
    ratios = (found["peak"] - batch) / image, own[0] / passes[0]
    print(
        f"{' x '.join(map(str, given.size))}, {given.heads} heads, windows of {window}: {image / 1e9:.2f} GB of image"
    )
    print(f"peak {found['peak'] / 1e9:.2f} GB, of which {batch / 1e9:.2f} GB are a batch of windows")
    for name, (c, w) in zip(("passes", "reading", "writing"), others, strict=True):
        print(f"{name}: {c:.1f} s CPU, {w:.1f} s wall")
    print(f"all: {cpu:.1f} s CPU, {wall:.1f} s wall")
    missed = False
    for what, ratio, most in zip(("memory / image", "(all - reading) / passes"), ratios, (MEMORY, TIME), strict=True):
        missed |= ratio > most
        print(f"{what} {ratio:.3f} (at most {most}) {'MISSED' if ratio > most else 'ok'}")
    return missed


def main():
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 600])
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--spacing", type=float, default=0.0, help="in mm, to which the image is resampled; 0 for not")
    parser.add_argument("--only-batch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only-predict", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_batch:
        print(json.dumps(passes_of_a_batch(given.heads, given.window)))
        return
    if given.only_predict:
        print(json.dumps(predicted(given.only_predict)))
        return
    raise SystemExit(measure(given))


if __name__ == "__main__":
    main()
