"""A checkpoint of a segmenter as a MONAI bundle, which runs without this package."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from lit_continual import __version__
from lit_continual.data import Preprocessing
from lit_continual.files.whole_files import write_json, write_text
from lit_continual.interop.agreement import agreement
from lit_continual.interop.bundle.bundle_files import LICENSE, METADATA, WEIGHTS
from lit_continual.interop.bundle.read_bundle import KEPT, is_plain
from lit_continual.interop.bundle.write_steps import compose, inferer, postprocessing_steps, preprocessing_steps
from lit_continual.interop.one_layer import OneLayer
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.network_input import channels_taken

NO_LICENSE = "No license was given for these weights. State one here before you pass them on.\n"


def write_bundle(opened: Checkpoint, folder: Path, images: str | None) -> list[str]:
    """Write a bundle that ``python -m monai.bundle run`` runs; return lines to print.

    All heads become one softmax over the background and all classes, with the log-odds that they had; regions that may
    overlap become sigmoids.

    Args:
        opened: The checkpoint.
        folder: An empty folder.
        images: Images on which to compare what was written with the checkpoint.

    Raises:
        ValueError: If the network, a transform or the heads cannot be said in a bundle.
    """
    one = OneLayer.of(opened)
    described = one.described()
    config = _inference(one, Preprocessing.of(opened), described)
    metadata = _metadata(one)
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir()
    write_json(folder / "configs/inference.json", config)
    write_json(folder / METADATA, metadata)
    license = one.module.origin.get("license")
    write_text(folder / LICENSE, license if isinstance(license, str) and license else NO_LICENSE)
    write_text(folder / "docs/README.md", _readme(one, metadata))
    torch.save({k: v.detach().cpu().contiguous() for k, v in one.weights().items()}, folder / WEIGHTS)
    return agreement(opened, one, images) if images else []


def _inference(one: OneLayer, preprocessing: Preprocessing, described: Mapping[str, Any]) -> dict[str, Any]:
    known, inference = one.module.hparams, one.module.inference
    after = postprocessing_steps(inference, one.activation, known.get("post") or ())
    loader = {"_target_": "CheckpointLoader", "load_path": "@ckpt_path", "load_dict": {"model": "@network"}}
    data = {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"}
    evaluator = {"device": "@device", "val_data_loader": "@dataloader", "network": "@network", "inferer": "@inferer"}
    evaluator |= {"postprocessing": "@postprocessing"}
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "ckpt_path": f"$@bundle_root + '/{WEIGHTS}'",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        **described,
        "network": "$@network_def.to(@device)",
        "preprocessing": compose(preprocessing_steps(preprocessing)),
        "dataset": data,
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False},
        "inferer": inferer(inference, known["roi_size"]),
        "postprocessing": compose(after),
        "checkpointloader": loader,
        "evaluator": {"_target_": "SupervisedEvaluator", **evaluator, "val_handlers": ["@checkpointloader"]},
        "run": ["$@evaluator.run()"],
    }


def _metadata(one: OneLayer) -> dict[str, Any]:
    given = one.module.origin.get("bundle")
    kept = {key: given[key] for key in KEPT if is_plain(given.get(key))} if isinstance(given, Mapping) else {}
    version = _next_version(kept.get("version"))
    changes = kept["changelog"] if isinstance(kept.get("changelog"), Mapping) else {}
    said = f"heads folded into one {one.activation} over {', '.join(one.names)} by lit_continual {__version__}"
    window = list(one.module.hparams["roi_size"] or [64] * one.module.spatial_dims)
    shared = {"type": "image", "spatial_shape": window, "dtype": "float32", "value_range": [], "is_patch_data": True}
    channels = channels_taken(one.module.body) or 1
    taken = {"format": "magnitude", "num_channels": channels, "channel_def": _numbered(["image"] * channels)}
    given_back = {"format": "segmentation", "num_channels": len(one.names), "channel_def": _numbered(one.names)}
    task = f"Segmentation of {', '.join(one.module.classes)}"
    return {
        "name": "segmentation",
        "task": task,
        "description": f"{task}, learnt in {len(one.module.heads.classes)} experiences.",
        "authors": "",
        "copyright": "",
        **kept,
        "version": version,
        "changelog": {**changes, version: said},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.2", "pytorch-ignite": "0.4.11"},
        "network_data_format": {
            "inputs": {"image": {**shared, **taken}},
            "outputs": {"pred": {**shared, **given_back}},
        },
    }


def _numbered(names: Sequence[str]) -> dict[str, str]:
    return {str(i): name for i, name in enumerate(names)}


def _next_version(version: Any) -> str:
    """The version after one of three numbers; the first where there is none."""
    parts = version.split(".") if isinstance(version, str) and len(version) < 40 else []
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        return "0.1.0"
    return f"{parts[0]}.{int(parts[1]) + 1}.0"


def _readme(one: OneLayer, metadata: Mapping[str, Any]) -> str:
    channels = "\n".join(f"| {i} | {name} |" for i, name in enumerate(one.names))
    return f"""# {metadata["name"]}

{metadata["description"]}

| channel | {"class" if one.activation == "softmax" else "region"} |
|---|---|
{channels}

```bash
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir IMAGES --output_dir OUT
```

The images are NIfTI files, each with all of its channels. It needs `monai`, `nibabel`, `pytorch-ignite` and `fire`.
"""
