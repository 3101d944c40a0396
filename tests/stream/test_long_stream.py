"""Fourteen experiences of one new class each: what a fit holds and how much it computes does not grow with them."""

import gc
import json
import os
import time
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.cli import main
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.stream.stream_loop import StreamLoop

CLASSES = 14
SIZE = (32, 32, 8)


def write_organs(folder):
    """Volumes with fourteen boxes on a grid, each brighter than the one before."""
    rng, listed = np.random.default_rng(0), []
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        label = np.zeros(SIZE, np.uint8)
        for k in range(CLASSES):
            x, y = 8 * (k % 4) + int(rng.integers(3)), 8 * (k // 4) + int(rng.integers(3))
            label[x : x + 5, y : y + 5, 1:7] = k + 1
        image = rng.normal(0, 0.1, SIZE) + label / CLASSES
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / "images" / f"case_{i}.nii")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labels" / f"case_{i}.nii")
        listed.append({"image": f"images/case_{i}.nii", "label": f"labels/case_{i}.nii"})
    labels = {"0": "background"} | {str(k + 1): f"organ {k + 1}" for k in range(CLASSES)}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": listed}))
    return str(folder)


def held_bytes():
    """Of all tensors that are alive, each storage once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def resident_bytes():
    """Of this process, where the system says so."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


class Measured:
    """What each fit holds before it and at the end of its training, its steps, and the CPU time of one."""

    def __init__(self, monkeypatch):
        self.before, self.during, self.resident, self.steps, self.seconds = [], [], [], [], []
        fit = StreamLoop._fit

        def measured_fit(loop, index, *given):
            self.before.append(held_bytes())
            self.resident.append(resident_bytes())
            fit(loop, index, *given)

        def on_train_start(module):
            self.began = time.process_time()

        def on_train_end(module):
            self.steps.append(module.trainer.global_step)
            self.seconds.append((time.process_time() - self.began) / self.steps[-1])
            self.during.append(held_bytes())

        monkeypatch.setattr(StreamLoop, "_fit", measured_fit)
        monkeypatch.setattr(Segmenter, "on_train_start", on_train_start)
        monkeypatch.setattr(Segmenter, "on_train_end", on_train_end)


@pytest.fixture
def long_stream(tmp_path):
    def write(targets="online"):
        names = [f"organ {k + 1}" for k in range(CLASSES)]
        network = {"spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "norm": "INSTANCE"}
        segmenter = {"network": {"class_path": "UNet", "init_args": network}, "features": 4}
        distillation = {"class_path": "Distillation", "init_args": {"alpha": 0.5, "targets": targets}}
        config = {
            "seed_everything": 0,
            "stream": {
                "experiences": [{"name": name, "classes": {name: k + 1}} for k, name in enumerate(names)],
                "memory": {"policy": "Random", "budget": {"samples": 6, "per_class": False}},
            },
            "model": {"class_path": "Segmenter", "init_args": segmenter},
            "data": {
                "class_path": "SegmentationDataModule",
                "init_args": {
                    "dataset": write_organs(tmp_path / "organs"),
                    "patch_size": [32, 32],
                    "batch_size": 8,
                    "split": {"fractions": [0.5, 0.17, 0.33]},
                },
            },
            "trainer": {
                "accelerator": "cpu",
                "max_epochs": 1,
                "logger": False,
                "callbacks": [distillation],
                "default_root_dir": str(tmp_path / "run"),
                "enable_progress_bar": False,
                "enable_model_summary": False,
            },
        }
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        return str(tmp_path / "config.yaml")

    return write


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["online", "cached"])
def test_what_a_fit_holds_does_not_grow_with_the_experiences(long_stream, tmp_path, monkeypatch, targets):
    measured = Measured(monkeypatch)
    main(["fit", "--config", long_stream(targets)])
    assert len(measured.during) == CLASSES
    assert len(set(measured.steps[2:])) == 1  # a full memory adds the same number of steps to each
    volumes = 5 * np.prod(SIZE) * 5  # bytes of the training and validation volumes of one experience, about
    assert measured.before[-1] - measured.before[2] < volumes
    grown = {"online": 0, "cached": 2 * 3 * 2 * np.prod(SIZE) * (CLASSES - 3)}[targets]  # half precision, two channels
    assert measured.during[-1] - measured.during[2] < volumes + 1.5 * grown
    assert measured.resident[-1] - measured.resident[2] < 50e6
    assert median(measured.seconds[-5:]) < 2 * median(measured.seconds[2:7])  # thirteen heads to distil, and not three
    rows = json.loads((Path(tmp_path) / "run" / "matrix.json").read_text())["dice"]
    assert sum(value is not None for value in rows[-1]) == CLASSES
