"""Train a small MONAI bundle on the anterior hippocampus, in minutes on a CPU, in place of the bundle that you have.

It uses MONAI and torch alone, as a bundle of somebody else would.
"""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.transforms import Compose, Lambdad, RandCropByPosNegLabeld, SpatialPadd

SOURCE = Path(os.environ["LIT_CONTINUAL_DATA"]) / "Task04_Hippocampus"
EPOCHS, WINDOW = int(os.environ.get("EPOCHS", 30)), [32, 32, 32]
FEATURES = [8, 8, 16, 32, 64, 8]
NETWORK = {"_target_": "BasicUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "features": FEATURES}
BEFORE = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "NormalizeIntensityd", "keys": "image"},
]
AFTER = [
    {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
    {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "separate_folder": False},
]
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
CONFIG = {
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "network_def": NETWORK,
    "preprocessing": {"_target_": "Compose", "transforms": BEFORE},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": WINDOW, "sw_batch_size": 4, "overlap": 0.5},
    "postprocessing": {"_target_": "Compose", "transforms": [ARGMAX, *AFTER]},
}
CHANNELS = {"0": "background", "1": "anterior"}


def train(images: list[Path]) -> torch.nn.Module:
    """Train the network on patches."""
    both = [{**step, "keys": ["image", "label"]} for step in BEFORE[:3]] + BEFORE[3:]
    parser = ConfigParser({"steps": {"_target_": "Compose", "transforms": both}, "network": NETWORK})
    crop = RandCropByPosNegLabeld(["image", "label"], "label", WINDOW, pos=2, neg=1, num_samples=2)
    mine = [Lambdad("label", lambda label: label == 1), SpatialPadd(["image", "label"], WINDOW), crop]
    cases = [{"image": str(image), "label": str(SOURCE / "labelsTr" / image.name)} for image in images]
    data = CacheDataset(cases, Compose([parser.get_parsed_content("steps"), *mine]), progress=False)
    network, loss = parser.get_parsed_content("network"), DiceCELoss(softmax=True, to_onehot_y=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for batch in DataLoader(data, batch_size=2, shuffle=True):
            optimizer.zero_grad()
            loss(network(batch["image"]).as_tensor(), batch["label"].as_tensor()).backward()
            optimizer.step()
    return network


def write_bundle(folder: Path, network: torch.nn.Module) -> None:
    """Write the files of a bundle."""
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    output = {"num_channels": 2, "channel_def": CHANNELS}
    metadata = {"version": "0.1.0", "authors": "A tutorial", "network_data_format": {"outputs": {"pred": output}}}
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    (folder / "configs/inference.json").write_text(json.dumps(CONFIG))
    (folder / "LICENSE").write_text("CC BY-SA 4.0, as the images that the weights were trained on.\n")
    torch.save(network.state_dict(), folder / "models/model.pt")


def write_posterior(folder: Path, images: list[Path]) -> None:
    """Write other patients, of whom only the posterior hippocampus is annotated."""
    listed = []
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for image in images:
        shutil.copy(image, folder / "images")
        truth = nib.load(SOURCE / "labelsTr" / image.name)
        mask = (np.asarray(truth.dataobj) == 2).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, truth.affine), folder / "labels" / image.name)
        listed.append({"image": f"images/{image.name}", "label": f"labels/{image.name}"})
    labels = {"0": "background", "1": "posterior"}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": listed}))


if __name__ == "__main__":
    torch.manual_seed(0)
    np.random.seed(0)
    found = sorted((SOURCE / "imagesTr").glob("*.nii.gz"))
    write_bundle(Path("anterior_bundle"), train(found[:24]))
    write_posterior(Path("posterior"), found[24:48])
    Path("new").mkdir()
    for image in found[48:54]:
        shutil.copy(image, "new")
