"""Train a small nnU-Net on the anterior hippocampus, in minutes on a CPU, in place of the model that you have."""

import json
import os
import random
import shutil
from pathlib import Path

os.environ |= {name: name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}  # folders here
os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}

import nibabel as nib
import numpy as np
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SOURCE = Path(os.environ["LIT_CONTINUAL_DATA"]).absolute() / "Task04_Hippocampus"


def dataset(name: str, classes: dict[str, int], cases: list[Path]) -> None:
    """Write cases in nnU-Net's layout, annotated with classes that have these values in the source."""
    folder = Path("nnUNet_raw") / name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    labels = {"background": 0, **{label: k for k, label in enumerate(classes, 1)}}
    images(cases, folder / "imagesTr")
    for image in cases:
        truth = nib.load(SOURCE / "labelsTr" / image.name)
        values, mask = np.asarray(truth.dataobj), np.zeros(truth.shape, np.uint8)
        for label, value in classes.items():
            mask[values == value] = labels[label]
        nib.save(nib.Nifti1Image(mask, truth.affine), folder / "labelsTr" / image.name)
    described = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**described, "numTraining": len(cases)}))


def images(cases: list[Path], folder: Path) -> None:
    """Copy images to the names that nnU-Net gives them."""
    folder.mkdir(exist_ok=True)
    for image in cases:
        shutil.copy(image, folder / image.name.replace(".nii.gz", "_0000.nii.gz"))


def plan(name: str, convolutions: int) -> None:
    """Let nnU-Net plan and preprocess, with a network that a CPU can train."""
    number, path = int(name[7:10]), Path("nnUNet_preprocessed") / name / "nnUNetPlans.json"
    api.extract_fingerprints([number], num_processes=1)
    api.plan_experiments([number])
    plans = json.loads(path.read_text())
    small = plans["configurations"]["3d_fullres"]
    small |= {"patch_size": [32, 48, 32], "batch_size": 2}
    network = small["architecture"]["arch_kwargs"]
    network |= {
        "n_stages": 4,
        "features_per_stage": [8, 16, 32, 64],
        "n_conv_per_stage": convolutions,
        "n_conv_per_stage_decoder": convolutions,
    }
    network |= {"kernel_sizes": [[3, 3, 3]] * 4, "strides": [[1, 1, 1], *[[2, 2, 2]] * 3]}
    path.write_text(json.dumps(plans))
    api.preprocess([number], configurations=["3d_fullres"], num_processes=[1])


def train(name: str, fold: int | str, seed: int, steps: int, lr: float) -> None:
    """Let nnU-Net train with its plans; a training that was stopped goes on with its next epoch."""
    plans = json.loads((Path("nnUNet_preprocessed") / name / "nnUNetPlans.json").read_text())
    labels = json.loads((Path("nnUNet_raw") / name / "dataset.json").read_text())
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # augment in this process
    begin(seed)
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", fold, labels, torch.device("cpu"))
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = min(steps, 100), 2
    trainer.initial_lr, trainer.num_epochs, trainer.save_every = lr, max(1, steps // 100), 1
    stopped = Path(trainer.output_folder) / "checkpoint_latest.pth"
    if stopped.exists():
        trainer.load_checkpoint(str(stopped))
        begin(seed + trainer.current_epoch)
    trainer.run_training()


def begin(seed: int) -> None:
    """Seed all that nnU-Net draws from."""
    for start in (torch.manual_seed, np.random.seed, random.seed):
        start(seed)


if __name__ == "__main__":
    found = sorted((SOURCE / "imagesTr").glob("*.nii.gz"))
    dataset("Dataset901_Anterior", {"anterior": 1}, found[:24])
    dataset("Dataset902_Posterior", {"posterior": 2}, found[24:48])
    images(found[48:54], Path("new"))
    plan("Dataset901_Anterior", convolutions=1)
    train("Dataset901_Anterior", fold=0, seed=0, steps=600, lr=0.03)
