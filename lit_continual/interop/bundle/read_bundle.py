"""A MONAI bundle as what a checkpoint of a segmenter holds."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_continual.files.whole_files import in_one_line
from lit_continual.interop.bundle.bundle_config import BundleConfig, name_of
from lit_continual.interop.bundle.bundle_files import METADATA, WEIGHTS, BundleFiles, shown
from lit_continual.interop.bundle.linear_heads import described, last_layer, lower_layers, parted
from lit_continual.interop.bundle.read_steps import read_inferer, read_postprocessing, read_preprocessing
from lit_continual.networks import NETWORKS

BACKGROUND = "background"
#: What of the metadata goes with the network, and into the bundle that it is exported to.
KEPT = (
    "authors", "changelog", "copyright", "data_source", "data_type", "dataset", "description", "intended_use", "name",
    "references", "task", "version",
)  # fmt: skip


def read_bundle(path: Path, trust: Collection[str]) -> dict[str, Any]:
    """Read a bundle as what a checkpoint of a ``Segmenter`` holds.

    Its last layer becomes the first head as it is; of a bundle of sigmoids each region becomes a head of its own, with
    a background whose logit is 0.

    Args:
        path: The folder, or a zip of it.
        trust: Packages whose classes its config may name; with ``"$"`` among them its expressions are evaluated.

    Raises:
        ValueError: If it cannot be read, its network has no linear last layer, or it does to images what our own
            preprocessing, inference or post-processing cannot do.
    """
    files = BundleFiles(path)
    metadata, (source, content) = files.mapping(METADATA), files.config()
    config = BundleConfig(content, f"{source} of {path}", trust)
    network = _network(config, trust)
    try:
        weights = _tensors(files.weights())
        body, weight, bias = parted(weights, network["_target_"])
        lower = lower_layers(network, weights)
    except ValueError as error:
        raise ValueError(
            f"{WEIGHTS} in {path} are not the weights of its network: {in_one_line(error)}. Use another bundle."
        ) from error
    dims = weight.ndim - 2
    window, after = read_inferer(config, dims), read_postprocessing(config)
    names = _channel_names(metadata, len(weight), path)
    heads, layers = _heads(names, weight, bias, after["activation"], path)
    state = {f"body.{name}": value for name, value in body.items()} | _named("heads", layers)
    auxiliary: dict[str, Tensor] = {}
    for n, layer in enumerate(lower):
        auxiliary |= _named(f"auxiliary.{n}", _heads(names, *layer, after["activation"], path)[1])
    roi_size = window.pop("roi_size")
    return {
        "state_dict": state,
        "hyper_parameters": {
            "network": described(network),
            "features": weight.shape[1],
            "heads": heads,
            "roi_size": roi_size,
            "post": after["post"],
            "inference": {**window, "resample": after["resample"]},
        },
        "auxiliary": auxiliary,
        "datamodule_hyper_parameters": {"preprocessing": read_preprocessing(config)},
        "lit_continual": {"module": "BundleSegmenter" if lower else "Segmenter"},
        "origin": {
            "bundle": {key: metadata[key] for key in KEPT if is_plain(metadata.get(key))},
            "license": files.license(),
            "activation": after["activation"] or "softmax",
        },
    }


def _network(config: BundleConfig, trust: Collection[str]) -> dict[str, Any]:
    """The description of the network, checked."""
    section = config.get("network_def")
    if not name_of(section):
        raise config.wrong("network_def", "describes no network")
    arguments = config.arguments(section, "network_def")
    try:
        found = NETWORKS.checked({"_target_": section["_target_"], **arguments}, trust)
        found["_target_"] = found["_target_"].rpartition(".")[2]
        last_layer(found["_target_"])
    except ValueError as error:
        raise ValueError(f"{config.source}: {error}") from error
    if found.get("use_conv_final") is False:
        raise config.wrong("network_def", "is a network without its last layer")
    return found


def _tensors(given: Mapping[str, Any]) -> dict[str, Tensor]:
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in given.items()):
        raise ValueError("it holds something else than tensors by name")
    return dict(given)


def _channel_names(metadata: Mapping[str, Any], channels: int, path: Path) -> list[str]:
    """What the metadata call the channels that come out."""
    found: Any = metadata
    for key in ("network_data_format", "outputs", "pred", "channel_def"):
        found = found.get(key) if isinstance(found, Mapping) else None
    names: list[Any] = [found.get(str(i)) for i in range(channels)] if isinstance(found, Mapping) else []
    plain = all(isinstance(name, str) and name and "/" not in name and len(name) <= 100 for name in names)
    if not names or not plain or len(set(names)) < channels or len(found) != channels:
        raise ValueError(
            f"{METADATA} in {path} must name the {channels} channels of the output once each, without '/', under"
            f" `network_data_format`, `outputs`, `pred`, `channel_def`, got {shown(found)}. Correct it."
        )
    return names


def _heads(
    names: Sequence[str], weight: Tensor, bias: Tensor, activation: str, path: Path
) -> tuple[list[list[str]], list[tuple[Tensor, Tensor]]]:
    """The classes of each head, and its weight and bias."""
    has_background = names[0].strip().lower() == BACKGROUND
    if activation in ("", "softmax") and has_background and len(names) > 1:
        return [list(names[1:])], [(weight, bias)]
    if activation == "sigmoid" and not has_background:
        rows = [torch.cat([torch.zeros_like(row), row]) for row in weight.split(1)]
        shifts = [torch.cat([torch.zeros_like(shift), shift]) for shift in bias.split(1)]
        return [[name] for name in names], list(zip(rows, shifts, strict=True))
    raise ValueError(
        f"{path} has the channels {shown(', '.join(names))} under {activation or 'no activation'}, which heads cannot"
        " say: a softmax needs the background as channel 0, and sigmoids have none. Correct its metadata or"
        " `postprocessing`."
    )


def _named(place: str, layers: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The weights of heads under the names that a segmenter has for them."""
    pairs = zip(("weight", "bias"), zip(*layers, strict=True), strict=True)
    return {f"{place}.layers.{i}.{kind}": value for kind, values in pairs for i, value in enumerate(values)}


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is text, a whole number, or a list or mapping of such, not too deep."""
    if isinstance(value, Mapping):
        return depth < 8 and all(isinstance(k, str) and is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, list):
        return depth < 8 and all(is_plain(item, depth + 1) for item in value)
    return isinstance(value, (str, int))
