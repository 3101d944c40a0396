"""What the plans of nnU-Net may name: its own U-Nets, layers of torch, and its own steps of preprocessing."""

from collections.abc import Collection, Iterator, Mapping
from reprlib import repr
from typing import Any

from lit_continual.files.printing import printable
from lit_continual.runs.checkpoints.arguments_of_files import LONGEST, numbers_in
from lit_continual.runs.checkpoints.registry import Registry
from lit_continual.runs.checkpoints.trust import trusted

LAYERS = ("conv", "instancenorm", "batchnorm", "normalization", "dropout", "activation")
UNETS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
BLOCKS = ("BasicBlockD", "BottleneckD")
PACKAGE = "dynamic_network_architectures"
RESAMPLING = (
    "resample_data_or_seg_to_shape",
    "resample_torch_fornnunet",
    "resample_torch_simple",
    "no_resampling_hack",
)
NORMALISATIONS = (
    "CTNormalization",
    "NoNormalization",
    "RGBTo01Normalization",
    "RescaleTo01Normalization",
    "ZScoreNormalization",
)
LARGEST = 2**16  # of a number in the description of a network
READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")


def _module() -> type:
    from torch import nn

    return nn.Module


LAYER = Registry(
    "layer",
    _module,
    ["torch.nn"],
    lambda found: found.__module__ in {f"torch.nn.modules.{name}" for name in LAYERS},
)
ARCHITECTURE = Registry("architecture", _module)


def require_names(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> None:
    """Check all that nnU-Net imports or looks up by a name in its plans.

    Networks and layers of packages that the caller trusts may be named too, within
    :func:`~lit_continual.runs.checkpoints.trust.trusting`.

    Args:
        plans: What ``plans.json`` holds.
        configuration: The configuration that is used, with what it inherits, in the form of today.

    Raises:
        ValueError: If a name is not among those that a file may name.
    """
    _require(plans["image_reader_writer"], READERS, "reads images by")
    _require(plans.get("label_manager", "LabelManager"), ("LabelManager",), "looks labels up by")
    _require(configuration["preprocessor_name"], ("DefaultPreprocessor",), "prepares images by")
    for scheme in configuration["normalization_schemes"]:
        _require(scheme, NORMALISATIONS, "normalises by")
    for what in ("data", "seg", "probabilities"):
        _require(configuration[f"resampling_fn_{what}"], RESAMPLING, "resamples by")
        arguments = configuration[f"resampling_fn_{what}_kwargs"]
        if not all(value is None or isinstance(value, (bool, int, float)) for value in arguments.values()):
            raise ValueError(f"the plans resample with {repr(dict(arguments))}, which are not all numbers")
    if not all(abs(number) <= LARGEST for number in numbers_in(configuration["architecture"]["arch_kwargs"])):
        raise ValueError(f"the plans describe a network by numbers above {LARGEST}")
    for registry, name in _imported(configuration["architecture"]):
        _require_allowed(registry, name)


def _imported(architecture: Mapping[str, Any]) -> Iterator[tuple[Registry, str]]:
    """What nnU-Net imports to build a network, and which kind it must be of."""
    yield ARCHITECTURE, str(architecture["network_class_name"])
    for argument in architecture["_kw_requires_import"]:
        if (name := architecture["arch_kwargs"][argument]) is not None:
            yield LAYER, str(name)


def _require_allowed(registry: Registry, name: str) -> None:
    """Check a name with its module; without it, nnU-Net would import a file of that name from beside the program."""
    place, _, short = name.rpartition(".")
    ours = place.startswith(f"{PACKAGE}.") and short in (UNETS if registry is ARCHITECTURE else BLOCKS)
    if (registry is LAYER and place.startswith("torch.nn")) or (place.partition(".")[0] in trusted()):
        registry.allowed(name, ())
    elif not ours:
        raise ValueError(
            f"`{printable(name[:LONGEST])}` is no {registry.kind} that a file may name. Give --trust"
            f" {printable(name.partition('.')[0][:LONGEST])} if it is your own and the file too"
        )


def _require(name: Any, known: Collection[str], what: str) -> None:
    if name not in known:
        raise ValueError(
            f"the plans say that nnU-Net {what} {printable(repr(name))}, and known are {', '.join(known)}. Use a model"
            " with one of these"
        )
