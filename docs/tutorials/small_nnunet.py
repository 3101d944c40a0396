"""Train a small nnU-Net on the anterior hippocampus, in minutes on a CPU, in place of the model that you have."""

import json
import os
import shutil
from pathlib import Path

os.environ |= {name: name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}  # folders here
os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}

import nibabel as nib
import numpy as np
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SOURCE = Path(os.environ["LIT_CONTINUAL_DATA"]) / "Task04_Hippocampus"
PLANS = "nnUNet_preprocessed/Dataset901_Anterior/nnUNetPlans.json"


def dataset(name: str, label: str, value: int, cases: list[Path]) -> None:
    """Write cases in nnU-Net's layout, with one class annotated."""
    folder = Path("nnUNet_raw") / name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for image in cases:
        case = image.name.removesuffix(".nii.gz")
        shutil.copy(image, folder / "imagesTr" / f"{case}_0000.nii.gz")
        truth = nib.load(SOURCE / "labelsTr" / image.name)
        mask = (np.asarray(truth.dataobj) == value).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, truth.affine), folder / "labelsTr" / image.name)
    described = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, label: 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**described, "numTraining": len(cases)}))


def plan() -> dict:
    """Let nnU-Net plan and preprocess, with a network that a CPU can train."""
    api.extract_fingerprints([901], num_processes=1)
    api.plan_experiments([901])
    plans = json.loads(Path(PLANS).read_text())
    small = plans["configurations"]["3d_fullres"]
    small |= {"patch_size": [32, 48, 32], "batch_size": 2}
    network = small["architecture"]["arch_kwargs"]
    network |= {
        "n_stages": 4,
        "features_per_stage": [8, 16, 32, 64],
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
    }
    network |= {"kernel_sizes": [[3, 3, 3]] * 4, "strides": [[1, 1, 1], *[[2, 2, 2]] * 3]}
    Path(PLANS).write_text(json.dumps(plans))
    api.preprocess([901], configurations=["3d_fullres"], num_processes=[1])
    return plans


if __name__ == "__main__":
    images = sorted((SOURCE / "imagesTr").glob("*.nii.gz"))
    dataset("Dataset901_Anterior", "anterior", 1, images[:24])
    dataset("Dataset902_Posterior", "posterior", 2, images[24:48])
    Path("new").mkdir()
    for image in images[48:54]:
        shutil.copy(image, "new/" + image.name.replace(".nii.gz", "_0000.nii.gz"))
    torch.manual_seed(0)
    np.random.seed(0)
    plans, labels = plan(), json.loads(Path("nnUNet_raw/Dataset901_Anterior/dataset.json").read_text())
    plans["continue_training"] = False
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # augment in this process
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, labels, torch.device("cpu"))
    trainer.initial_lr, trainer.num_epochs = 0.03, 6
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 100, 2
    trainer.run_training()
