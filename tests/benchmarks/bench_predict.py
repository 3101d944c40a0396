"""`predict` of a volume of 512 x 512 x 600 by a segmenter of five heads: its memory, and its time beside the network's.

Run as ``python tests/benchmarks/bench_predict.py [--size H W D] [--heads N] [--spacing MM] [--window N] [--nnunet]``,
or with ``--device cuda [--precision 16-mixed] [--stitch_device cpu]`` for a U-Net of real width on a GPU, of which
nothing is judged.
What is judged: the peak of resident memory above that of the process with the checkpoint opened, which may be that of a
batch of windows and 4 times the float32 image; and the CPU time of all that comes after the image has been read, which
may be 1.1 times that of the network's passes within it. Reading and writing are shown. Memory of a batch of windows is
taken in a process of its own. With ``--nnunet`` it is a model of nnU-Net of so many classes; the peak is that after
reading, which nnU-Net's own code does, and time is only shown, since most of it is spent on the exact steps of SciPy.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from lit_continual.modules import NNUNetSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.tools import predict as tool
from lit_continual.tools import segmentation_writer

MEMORY, TIME, BATCH, FEATURES = 4.0, 1.1, 2, 8
#: Of a GPU, as wide as those that people train.
WIDE, WIDE_BATCH = {"_target_": "BasicUNet", "spatial_dims": 3, "features": [32, 32, 64, 128, 256, 32]}, 4
NETWORK = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "channels": [8, 8], "strides": [1]}


def peak():
    """The highest resident memory of this process so far, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


def plans(names, window, spacing):
    """A model of nnU-Net with two stages, by which images are resampled to a voxel size."""
    resampling = "resample_data_or_seg_to_shape"
    options = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    network = {"n_stages": 2, "features_per_stage": [FEATURES] * 2, "conv_op": "torch.nn.modules.conv.Conv3d"}
    network |= {"kernel_sizes": [[3] * 3] * 2, "strides": [[1] * 3, [2] * 3], "n_conv_per_stage": 1}
    network |= {"n_conv_per_stage_decoder": 1, "conv_bias": True, "norm_op": None, "norm_op_kwargs": None}
    network |= {"dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {}}
    configuration = {
        "data_identifier": "bench",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [window] * 3,
        "spacing": [spacing or 1.0] * 3,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        **{f"resampling_fn_{what}": resampling for what in ("data", "seg", "probabilities")},
        **{f"resampling_fn_{what}_kwargs": options for what in ("data", "seg", "probabilities")},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "nonlin"],
        },
    }
    order = {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    known = {"dataset_name": "Dataset001_Bench", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO"}
    known |= {"configurations": {"3d_fullres": configuration}, "label_manager": "LabelManager", **order}
    known |= {"foreground_intensity_properties_per_channel": {"0": {}}}
    labels = {"background": 0, **{name: k for k, name in enumerate(names, 1)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    given = {"plans": known, "dataset": dataset, "configuration": "3d_fullres", "trainer": "nnUNetTrainer"}
    return {**given, "mirror_axes": None, "fold": "0", "fingerprint": None}


def model(given):
    torch.manual_seed(0)
    names = [f"organ{k}" for k in range(1, given.heads + 1)]
    if given.nnunet:
        return NNUNetSegmenter(plans(names, given.window, given.spacing), [names])
    network, features = (NETWORK, FEATURES) if given.device == "cpu" else (WIDE, WIDE["features"][-1])
    return Segmenter(network, features, [[name] for name in names], roi_size=[given.window] * 3)


def write_volume(path, size):
    """A volume as from a scanner: integers under a header that scales, flipped as DICOM is."""
    block = np.random.default_rng(0).integers(0, 2000, (64, 64, 64), dtype=np.int16)
    volume = np.tile(block, [-(-n // 64) for n in size])[tuple(map(slice, size))]
    image = nib.Nifti1Image(volume, np.diag([-0.8, -0.8, 1.0, 1.0]))
    image.header.set_slope_inter(1.0, -1024.0)
    nib.save(image, path)


def write_checkpoint(path, given):
    module, spacing = model(given), given.spacing
    preprocessing = {"orientation": "RAS", "spacing": [spacing] * 3 if spacing else None}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(content)
    torch.save({**content, "datamodule_hyper_parameters": {"preprocessing": preprocessing}}, path)


class Watch:
    """CPU and wall seconds within a function, also of a GPU's work if that is waited for."""

    def __init__(self, waits=False):
        self.cpu = self.wall = 0.0
        self.wait = torch.cuda.synchronize if waits else lambda: None

    def around(self, function):
        def watched(*args, **kwargs):
            self.wait()
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.wait()
                self.cpu += time.process_time() - cpu
                self.wall += time.perf_counter() - wall

        return watched


def passes_of_a_batch(given):
    module, before = model(given).eval(), peak()
    with torch.inference_mode():
        module(torch.rand(1 if given.nnunet else BATCH, 1, *[given.window] * 3))
    return {"peak": peak() - before}


def without_peak(read):
    """Let the peak begin anew when something is read."""

    def reading(*args):
        found = read(*args)
        Path("/proc/self/clear_refs").write_text("5")
        return found

    return reading


def predicted(folder, given):
    nnunet, gpu = given.nnunet, given.device == "cuda"
    watches = {name: Watch(gpu) for name in ("passes", "reading", "writing", "all")}
    Segmenter.forward = watches["passes"].around(Segmenter.forward)
    asked = NNUNetSegmenter._convolved
    NNUNetSegmenter._convolved = lambda module: watches["passes"].around(asked(module))
    load, after = tool.loader_of, without_peak if nnunet else lambda read: read
    tool.loader_of = lambda *args: after(watches["reading"].around(load(*args)))
    segmentation_writer.write_nifti = watches["writing"].around(segmentation_writer.write_nifti)
    Checkpoint(folder / "model.ckpt").module(Segmenter)  # and what it imports
    before, options = peak(), {"accelerator": "gpu" if gpu else "cpu", "stitch_device": given.stitch_device}
    options |= {} if nnunet else {"sw_batch_size": WIDE_BATCH if gpu else BATCH, "precision": given.precision}
    watches["all"].around(tool.predict)(
        str(folder / "model.ckpt"), str(folder / "images"), str(folder / "out"), **options
    )
    device = torch.cuda.max_memory_allocated() if gpu else 0
    return {
        "peak": peak() - before,
        "device": device,
        **{name: [watch.cpu, watch.wall] for name, watch in watches.items()},
    }


def child(*args):
    command = [sys.executable, __file__, *map(str, args)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(given):
    window, image = given.window, 4 * float(np.prod(given.size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        write_volume(folder / "images/case.nii.gz", given.size)
        write_checkpoint(folder / "model.ckpt", given)
        kind = ["--device", given.device, *(["--nnunet"] if given.nnunet else [])]
        kind += ["--stitch_device", given.stitch_device] if given.stitch_device else []
        kind += ["--precision", given.precision] if given.precision else []
        gpu = given.device == "cuda"
        batch = 0 if gpu else child("--only-batch", "--heads", given.heads, "--window", window, *kind)["peak"]
        found = child("--only-predict", folder, *kind)
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
    if gpu:
        ratio = own[1] / passes[1]
        print(f"{found['device'] / 1e9:.2f} GB of the GPU, (all - reading) / passes by the clock {ratio:.3f}")
        return False
    missed = False
    for what, ratio, most in zip(("memory / image", "(all - reading) / passes"), ratios, (MEMORY, TIME), strict=True):
        judged = not given.nnunet or most == MEMORY
        missed |= judged and ratio > most
        limit = f"(at most {most}) {'MISSED' if ratio > most else 'ok'}" if judged else ""
        print(f"{what} {ratio:.3f} {limit}")
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
    parser.add_argument("--nnunet", action="store_true", help="a model of nnU-Net, resampled to --spacing or 1 mm")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", help="of a GPU, such as 16-mixed")
    parser.add_argument("--stitch_device", choices=["same", "cpu"])
    parser.add_argument("--only-batch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only-predict", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_batch:
        print(json.dumps(passes_of_a_batch(given)))
        return
    if given.only_predict:
        print(json.dumps(predicted(given.only_predict, given)))
        return
    raise SystemExit(measure(given))


if __name__ == "__main__":
    main()
