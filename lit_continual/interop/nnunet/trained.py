"""What a trained-model folder of nnU-Net says beside its weights."""

import hashlib
import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite, prod
from reprlib import repr
from typing import Any

from lit_continual.files.plain_data import fits, require_types, types_of
from lit_continual.files.whole_files import explaining, in_one_line
from lit_continual.interop.nnunet.names import require_names
from lit_continual.runs.checkpoints.parameters import CHECKS, LARGEST, MOST
from lit_continual.runs.checkpoints.trust import trusting

#: What nnU-Net raises over plans of other types than its own.
MALFORMED = (KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError, AssertionError, OverflowError)
PLACE = "dynamic_network_architectures.architectures"
#: Where nnU-Net says that an architecture of old plans is, and where it is; else nnU-Net imports all files to find it.
MOVED = {f"{PLACE}.residual_unet.ResidualEncoderUNet": f"{PLACE}.unet.ResidualEncoderUNet"}


@dataclass(frozen=True, repr=False)
class Trained:
    """Plans, labels and whereabouts of a trained model of nnU-Net: plain data, with nnU-Net's own reading of it.

    Args:
        plans: What ``plans.json`` holds.
        dataset: What ``dataset.json`` holds.
        configuration: Which configuration of the plans was trained, such as ``3d_fullres``.
        trainer: Name of the class that trained it, which builds the network.
        mirror_axes: Axes along which it was mirrored in training.
        fold: Which fold it is.
        fingerprint: What ``dataset_fingerprint.json`` holds, if it was there.

    Raises:
        ValueError: If it is a model that cannot be extended, or names what no file may name.
    """

    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: str
    trainer: str
    mirror_axes: list[int] | None
    fold: str
    fingerprint: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _require_plain_labels(self.dataset)
        if not re.fullmatch(r"all|0|[1-9]\d{0,3}", self.fold):  # nnU-Net does not find fold_07
            raise ValueError(
                f"A fold of nnU-Net is a number, such as 0, or `all`, not {self.fold[:100]!r}. Rename its folder."
            )
        try:
            configuration = self.settings.configuration
            if self.settings.previous_stage_name is not None:
                raise ValueError(
                    f"the configuration {self.configuration} is a cascade, which reads the answers of"
                    f" {self.settings.previous_stage_name} too. Take another configuration"
                )
            require_names(self.plans, configuration)
            _require_within(1, LARGEST, patch_size=self.patch_size)
            _require_within(1e-3, 1e3, spacing=self.spacing)
            self._require_agreement(configuration)
        except MALFORMED as error:
            raise ValueError(f"The plans of nnU-Net cannot be used: {in_one_line(error)}.") from error

    def _require_agreement(self, known: Mapping[str, Any]) -> None:
        """Refuse plans whose parts contradict one another: nnU-Net would fail on each image, or be wrong about it."""
        there, back = self.manager.transpose_forward, self.manager.transpose_backward
        if (
            not fits([there, back], list[list[int]])
            or sorted(there) != [0, 1, 2]
            or [there[i] for i in back] != [0, 1, 2]
        ):
            raise ValueError(
                f"`transpose_forward` {repr(there)} and `transpose_backward` {repr(back)} are no way and way back"
            )
        if prod(self.patch_size) > MOST:
            raise ValueError(f"`patch_size` is {self.patch_size}, and a window has at most {MOST} voxels")
        schemes, masked = known["normalization_schemes"], known["use_mask_for_norm"]
        if not fits(masked, list[bool]) or not len(schemes) == len(masked) == self.channels:
            raise ValueError(
                f"they normalise by {repr(schemes)}, masked by {repr(masked)}, and dataset.json names {self.channels}"
                " channels. Give it those of the model"
            )
        for channel in (k for k, scheme in enumerate(schemes) if scheme == "CTNormalization"):
            found = self.plans["foreground_intensity_properties_per_channel"][str(channel)]
            if not all(isfinite(found[name]) for name in ("mean", "std", "percentile_00_5", "percentile_99_5")):
                raise ValueError(f"the intensities of channel {channel} are {repr(found)}, not all of them finite")
        axes = self.mirror_axes or []
        if not {*axes} <= {*range(len(self.patch_size))} or len({*axes}) < len(axes):
            raise ValueError(f"`inference_allowed_mirroring_axes` are {repr(axes)}, not all of them axes of an image")

    @classmethod
    def of(cls, given: Any, trust: Collection[str] = ()) -> "Trained":
        """Check plain data from a file, and return it as what it is.

        Args:
            given: What :meth:`plain` returns.
            trust: Packages of the caller's own whose architectures and layers the plans may name too.

        Raises:
            ValueError: If something is missing, of another type, or cannot be used.
        """
        try:
            require_types(given, types_of(cls))
        except MALFORMED as error:
            raise ValueError(f"This is no trained model of nnU-Net ({in_one_line(error)}).") from error
        with trusting(trust):
            return cls(**{name: given[name] for name in types_of(cls)})

    def __repr__(self) -> str:
        """Distinguish it from others in the key of a cache."""
        text = json.dumps(self.plain(), sort_keys=True)
        return f"Trained({self.configuration}, {hashlib.sha256(text.encode()).hexdigest()})"

    def plain(self) -> dict[str, Any]:
        """What :meth:`of` takes."""
        return asdict(self)

    @cached_property
    def manager(self) -> Any:
        """nnU-Net's ``PlansManager``."""
        return nnunetv2().utilities.plans_handling.plans_handler.PlansManager(self.plans)

    @cached_property
    def settings(self) -> Any:
        """nnU-Net's ``ConfigurationManager``; it converts plans from before version 2.4."""
        known = self.plans.get("configurations")
        if not isinstance(known, Mapping) or self.configuration not in known:
            raise ValueError(
                f"there is no configuration {self.configuration} among {', '.join(map(str, known or ())) or 'none'}"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected old nnU-Net plans format")
            found = self.manager.get_configuration(self.configuration)
        network, name = found.configuration["architecture"], "network_class_name"
        network[name] = MOVED.get(network[name], network[name])
        return found

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their labels, from 1."""
        labels = {name: value for name, value in self.dataset["labels"].items() if name not in ("background", "ignore")}
        return sorted(labels, key=labels.__getitem__)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return len(self.dataset.get("channel_names") or self.dataset["modality"])

    @property
    def patch_size(self) -> list[int]:
        """In voxels: two numbers for a network that goes slice by slice."""
        return [int(size) for size in self.settings.patch_size]

    @property
    def spacing(self) -> list[float]:
        """Voxel size in mm that images are resampled to; of a network that goes slice by slice, that of the slices."""
        return [float(size) for size in self.settings.spacing]

    def with_classes(self, classes: Collection[str]) -> dict[str, Any]:
        """``dataset.json`` with the labels of an extended model: 0 for the background, ``ignore`` last."""
        labels = {"background": 0, **{name: value for value, name in enumerate(classes, 1)}}
        if "ignore" in self.dataset["labels"]:
            labels["ignore"] = len(labels)
        return {**self.dataset, "labels": labels}


def _require_within(least: float, most: float, **given: Sequence[float]) -> None:
    for name, sizes in given.items():
        if len(sizes) not in (2, 3) or not all(least <= size <= most for size in sizes):
            raise ValueError(f"`{name}` is {repr(sizes)}, not two or three numbers from {least:g} to {most:g}")


def nnunetv2() -> Any:
    """The package ``nnunetv2`` with what of it is used here; it is an extra, and seconds to import.

    Raises:
        ValueError: If it is not installed.
    """
    with explaining("Models of nnU-Net need its package", "Run `pip install lit-continual[nnunet]`.", ImportError):
        import nnunetv2.inference.predict_from_raw_data
        import nnunetv2.inference.sliding_window_prediction
        import nnunetv2.preprocessing.preprocessors.default_preprocessor
        import nnunetv2.preprocessing.resampling.default_resampling
        import nnunetv2.utilities.find_objects
        import nnunetv2.utilities.plans_handling.plans_handler
    return nnunetv2


def _require_plain_labels(dataset: Mapping[str, Any]) -> None:
    labels = dataset.get("labels")
    if not isinstance(labels, Mapping) or labels.get("background") != 0:
        raise ValueError("The dataset.json of nnU-Net needs `labels`, name to value, with `background: 0`. Correct it.")
    if region := next((name for name, value in labels.items() if isinstance(value, (list, tuple))), None):
        raise ValueError(
            f"The model was trained on regions: its dataset.json gives {repr(region)} the values"
            f" {repr(labels[region])}. Models of regions are not extended; take one with a value for each label."
        )
    if not all(isinstance(name, str) and fits(value, int) for name, value in labels.items()):
        raise ValueError(f"The labels of dataset.json are {repr(dict(labels))}. Give each name a whole number.")
    if sorted(labels.values()) != list(range(len(labels))) or not labels.keys() - {"background", "ignore"}:
        raise ValueError(f"The labels of dataset.json are {repr(dict(labels))}. Number them 0, 1, 2, … without a gap.")
    if labels.get("ignore", len(labels) - 1) != len(labels) - 1:
        raise ValueError(f"The label `ignore` of dataset.json is {repr(labels['ignore'])}. Make it the last value.")
    channels = dataset.get("channel_names") or dataset.get("modality")
    if not isinstance(channels, Mapping) or not channels:
        raise ValueError("The dataset.json of nnU-Net names no channels. Give it `channel_names`, such as {'0': 'CT'}.")


CHECKS["trained"] = lambda value, trust: None if value is None else Trained.of(value, trust).plain()
