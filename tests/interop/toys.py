"""Toy bundles as the Model Zoo has them, and what MONAI makes of an image with one."""

import copy
import functools
import json

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.networks import nets

NETWORKS = {
    "BasicUNet": {"spatial_dims": 3, "in_channels": 1, "features": [4, 4, 8, 8, 8, 6], "norm": "BATCH"},
    "SegResNet": {"spatial_dims": 3, "in_channels": 1, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "DynUNet": {
        "spatial_dims": 3,
        "in_channels": 1,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [4, 8, 8],
        "deep_supervision": True,
    },
    "UNETR": {
        "in_channels": 1,
        "img_size": [16, 16, 16],
        "feature_size": 4,
        "hidden_size": 24,
        "mlp_dim": 32,
        "num_heads": 2,
    },
    "SwinUNETR": {
        "in_channels": 1,
        "norm_name": "batch",
        "feature_size": 12,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
    },
    "UNet": {"spatial_dims": 3, "in_channels": 1, "channels": [4, 8], "strides": [2], "num_res_units": 2},
}
LOAD = [{"_target_": "LoadImaged", "keys": "@key"}, {"_target_": "EnsureChannelFirstd", "keys": "@key"}]
GRID = [
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
]
SCALE = [
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -2, "a_max": 2, "b_min": 0, "b_max": 1, "clip": True}
]
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
THRESHOLD = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
INVERT = {
    "_target_": "Invertd",
    "keys": "pred",
    "transform": "@preprocessing",
    "orig_keys": "image",
    "nearest_interp": False,
    "to_tensor": True,
}
NEAREST = {**INVERT, "nearest_interp": True}
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"}
INFERER = {
    "_target_": "SlidingWindowInferer",
    "roi_size": [16, 16, 16],
    "sw_batch_size": 2,
    "overlap": 0.5,
    "mode": "gaussian",
    "device": "$torch.device('cpu')",
}


def network(name="BasicUNet", channels=3, seed=0):
    """A network of random weights, with the batch statistics of noise."""
    return copy.deepcopy(_network(name, channels, seed))


@functools.cache
def _network(name, channels, seed):
    torch.manual_seed(seed)
    module = getattr(nets, name)(**{**NETWORKS[name], "out_channels": channels})
    size = NETWORKS[name].get("img_size", [32] * NETWORKS[name].get("spatial_dims", 3))
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            layer.momentum = None  # the mean of all batches, of which there is one
    with torch.no_grad():
        module(torch.rand(2, 1, *size))
    return module.eval()


def config(
    name="BasicUNet", channels=3, steps=(*LOAD, *GRID, *SCALE), after=(SOFTMAX, INVERT, ARGMAX), inferer=INFERER
):
    evaluator = {"_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader"}
    evaluator |= {"network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing"}
    described = {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "images",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": name, **NETWORKS[name], "out_channels": channels},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": list(steps)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": [*after, SAVE]},
        "evaluator": evaluator,
    }
    return copy.deepcopy(described)


def metadata(names):
    output = {"num_channels": len(names), "channel_def": {str(i): name for i, name in enumerate(names)}}
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "first"},
        "authors": "toys",
        "network_data_format": {"outputs": {"pred": output}},
    }


def write_bundle(folder, described=None, module=None, names=("background", "a", "b")):
    """Write a bundle, and return its folder."""
    described = described or config()
    module = module or network(described["network_def"]["_target_"], len(names))
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs/inference.json").write_text(json.dumps(described))
    (folder / "configs/metadata.json").write_text(json.dumps(metadata(names)))
    (folder / "LICENSE").write_text("For toys only.")
    torch.save(module.state_dict(), folder / "models/model.pt")
    return folder


AFFINE = np.array([[-1.2, 0.1, 0.0, 5.0], [0.1, 1.0, 0.0, -3.0], [0.0, 0.0, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def write_images(folder, count=2, shape=(25, 21, 12), channels=()):
    """Write smooth noise, in which a network of random weights finds connected structures."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.normal(0, 1, (*(-(-n // 4) for n in shape), *channels))
        array = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]]
        array = array + rng.normal(0, 0.3, array.shape)
        nib.save(nib.Nifti1Image(array.astype(np.float32), AFFINE), folder / f"case_{i}.nii.gz")
    return folder


def balanced(module, folder, described):
    """Shift the last layer so that each channel wins somewhere in the images."""
    import lit_continual.interop.bundle.linear_heads as heads

    layer = module.get_submodule(heads.LAST[described["network_def"]["_target_"]])
    found = []
    hook = layer.register_forward_hook(lambda _, __, output: found.append(output.as_subclass(torch.Tensor).clone()))
    run_with_monai(described, module, folder)
    hook.remove()
    logits = torch.cat([f.flatten(2) for f in found], 2)[0]
    with torch.no_grad():
        layer.weight /= logits.std(1).reshape(-1, *[1] * (layer.weight.ndim - 1))
        layer.bias.copy_((layer.bias - logits.mean(1)) / logits.std(1))
    return module


def run_with_monai(described, module, images):
    """What ``monai.bundle run`` writes, by file: its own objects, called as its evaluator calls them."""
    described = copy.deepcopy({**described, "dataset_dir": str(images)})
    described["postprocessing"]["transforms"].pop()  # which writes files
    parser = ConfigParser(described)
    for key in ("preprocessing", "inferer", "postprocessing", "dataset"):
        parser.get_parsed_content(key)
    inferer, after = parser.get_parsed_content("inferer"), parser.get_parsed_content("postprocessing")
    found = {}
    with torch.no_grad():
        for name, data in zip(parser.get_parsed_content("datalist"), parser.get_parsed_content("dataset"), strict=True):
            logits = inferer(data["image"][None], module.eval())[0]
            found[name.rpartition("/")[2]] = after({"image": data["image"], "pred": logits})["pred"].numpy()
    return found
