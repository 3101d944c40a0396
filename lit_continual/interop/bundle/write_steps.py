"""What this package does to an image before a network, around it and after it, in the words of a bundle."""

from collections.abc import Mapping, Sequence
from typing import Any

import monai.transforms

from lit_continual.data import Preprocessing
from lit_continual.data.preprocessing import AXES
from lit_continual.runs.checkpoints.registry import flat
from lit_continual.segmentation.inference import Inference

Steps = list[dict[str, Any]]


def compose(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The section of some transforms."""
    return {"_target_": "Compose", "transforms": [dict(step) for step in steps]}


def preprocessing_steps(preprocessing: Preprocessing) -> Steps:
    """The transforms that bring an image to the grid and scale of ``preprocessing``.

    Raises:
        ValueError: If one of them is none of MONAI.
    """
    steps: Steps = [{"_target_": name, "keys": "image"} for name in ("LoadImaged", "EnsureChannelFirstd")]
    if preprocessing.orientation:
        labels = [list(pair) for pair in AXES]
        steps.append(_step("Orientationd", "image", {"axcodes": preprocessing.orientation, "labels": labels}))
    if preprocessing.spacing:
        steps.append(_step("Spacingd", "image", {"pixdim": list(preprocessing.spacing), "mode": "bilinear"}))
    steps += [_of_dictionary(flat(spec), "image", "normalise") for spec in preprocessing.normalise]
    return [*steps, {"_target_": "EnsureTyped", "keys": "image"}]


def inferer(inference: Inference, roi_size: Sequence[int] | None) -> dict[str, Any]:
    """The section of the inferer."""
    if roi_size is None:
        return {"_target_": "SimpleInferer"}
    flat = (
        {"_target_": "SliceInferer", "spatial_dim": 2} if len(roi_size) == 2 else {"_target_": "SlidingWindowInferer"}
    )
    asked = {name: getattr(inference, name) for name in ("sw_batch_size", "overlap", "mode", "padding_mode")}
    return {**flat, "roi_size": list(roi_size), **asked}


def postprocessing_steps(inference: Inference, activation: str, post: Sequence[Mapping[str, Any]]) -> Steps:
    """The transforms from logits to a label map, or to masks of regions, in the grid of the file.

    Raises:
        ValueError: If a post-processing is none of MONAI.
    """
    activate = _step("Activationsd", "pred", {activation: True})
    decided: dict[str, Any] = {"argmax": True} if activation == "softmax" else {"threshold": 0.5}
    decide = _step("AsDiscreted", "pred", decided)
    back = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": inference.resample == "labels"}
    invert = _step("Invertd", "pred", back)
    orders = {
        "logits": [invert, activate, decide],
        "probabilities": [activate, invert, decide],
        "labels": [activate, decide, invert],
    }
    after = [_of_dictionary(spec, "pred", "post") for spec in post]
    save = {"output_dir": "@output_dir", "output_postfix": "seg", "output_dtype": "uint8", "separate_folder": False}
    return [*orders[inference.resample], *after, _step("SaveImaged", "pred", save)]


def _step(name: str, keys: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"_target_": name, "keys": keys, **arguments}


def _of_dictionary(spec: Mapping[str, Any], keys: str, section: str) -> dict[str, Any]:
    """A transform of one image as the transform of a mapping that MONAI has of it."""
    arguments = dict(spec)
    name = str(arguments.pop("_target_"))
    place, _, last = name.rpartition(".")
    if not hasattr(monai.transforms, f"{last}d") or not (not place or place.startswith("monai.")):
        raise ValueError(
            f"`{section}` has the transform {name}, which is none of MONAI, so that a bundle cannot hold it. Leave it"
            " out, or export as onnx, pt2 or torchscript, which are the network alone."
        )
    return _step(f"{last}d", keys, arguments)
