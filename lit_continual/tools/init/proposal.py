"""A config for what is known of some data sets, with the reason for each choice."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from lit_continual.tools.init.data_set_facts import DataSetFacts, clean
from lit_continual.tools.init.experiences import By, Planned, choose_split, plan
from lit_continual.tools.init.geometry import geometry_of, patch_of
from lit_continual.tools.init.intensities import normalisation_of
from lit_continual.tools.init.network_memory import step_bytes

WIDTHS = [32, 32, 64, 128, 256, 32]  # MONAI's default, and nnU-Net's first
FEATURES, RATE = WIDTHS[-1], 0.002
BATCHES = {2: 32, 3: 8}  # at most, by dimensions
PATCHES = 4  # of a volume in an epoch
STEPS, EPOCHS = 1000, 100  # of an experience, about and at most
SPARSE = 0.5  # share of slices with a class, below which they are drawn more often
SMALL = 0.005  # share of a volume, below which a mean over voxels hardly sees a class


class Proposal:
    """The choices for some data sets, as a config that runs.

    Args:
        data: What is known of them.
        memory: Of the device, in GB.
        exemplars: Training samples to keep of each experience.
        by: One experience a data set or a class; ``None`` chooses.
        root: Folder of the run.

    Raises:
        ValueError: If the data sets cannot be learnt by one network, or there is too little memory.

    Attributes:
        config: Plain data.
        comments: Why, by the dotted path of what is explained.
    """

    def __init__(self, data: Sequence[DataSetFacts], memory: float, exemplars: int, by: By | None, root: str) -> None:
        _require_alike(data)
        self.data, self.memory, self.exemplars = data, memory, exemplars
        self.grid = geometry_of([facts for one in data for facts in one.cases])
        self.comments: dict[str, str] = {}
        experiences, why = plan(data, by)
        self.comments["stream.experiences"] = why + _sites(data)
        self.split, self.planned, self.comments["data.init_args.split"] = choose_split(experiences)
        self.regions = {clean(name): self._parts(name) for name in data[0].listed.regions}
        self.small = [] if self.regions else [name for one in data for name in one.classes if one.share(name) < SMALL]
        self.network = self._network()
        self.patch, self.batch = self._window()
        self.config = {
            "seed_everything": 0,
            "stream": self._stream(),
            "model": self._model(),
            "data": {"class_path": "SegmentationDataModule", "init_args": self._data()},
            "trainer": self._trainer(root),
        }
        self.comments = {place: why for place, why in self.comments.items() if why}

    def _parts(self, region: str) -> list[str]:
        one = self.data[0]
        values = {one.listed.labels[name] for name in one.listed.regions[region]}
        return [name for name in one.classes if one.value(name) in values]

    def _network(self) -> dict[str, Any]:
        arguments = {"spatial_dims": self.grid.dims, "in_channels": self.data[0].channels, "features": WIDTHS}
        return {"class_path": "BasicUNet", "init_args": arguments}

    def _window(self) -> tuple[list[int], int]:
        classes = sum(len(one.classes) for one in self.planned)

        def taken(patch: Sequence[int], batch: int) -> float:
            return step_bytes(self.network, FEATURES, classes, self.data[0].channels, patch, batch) / 1e9

        patch = patch_of(self.grid.size, self.grid.dims, lambda patch: taken(patch, 2) <= self.memory)
        if taken(patch, 2) > self.memory:
            raise ValueError(
                f"The smallest window, {patch} voxels in batches of 2, takes {taken(patch, 2):.2g} GB, more than"
                f" --memory {self.memory:g}. Give the GB that the device has."
            )
        most = max(2, min(BATCHES[self.grid.dims], self._samples() // 4))
        batch = max(batch for batch in range(2, most + 1) if taken(patch, batch) <= self.memory)
        self.comments["data.init_args.patch_size"] = (
            f"A median volume on this grid has {' x '.join(map(str, self.grid.size))} voxels; multiples of 16 for four"
            f" levels. A step takes about {taken(patch, batch):.1f} of {self.memory:g} GB (--memory)."
        )
        return patch, batch

    def _samples(self) -> int:
        """About how many samples the first experience trains on: slices, or patches."""
        each = self.grid.size[2] if self.grid.dims == 2 else PATCHES
        train, parts = self.split.get("fractions", [0.7])[0], (self.planned[0].part or (0, 1))[1]
        return max(1, int(train * len(self.planned[0].data.cases) / parts * each))

    def _stream(self) -> dict[str, Any]:
        experiences = [self._experience(one) for one in self.planned]
        if len(experiences) == 1 or not self.exemplars:
            if len(experiences) > 1:
                self.comments["stream.experiences"] += (
                    " Nothing of earlier patients is kept; where that is allowed and images look different, --exemplars"
                    " 30 keeps some."
                )
            return {"experiences": experiences}
        self.comments["stream.memory"] = (
            f"{self.exemplars} training samples of each experience are kept in the run's folder: images of patients."
        )
        keep = {
            "policy": {"class_path": "ClassBalancedReservoir"},
            "budget": {"samples": self.exemplars, "per_class": True},
        }
        return {"experiences": experiences, "memory": keep}

    def _experience(self, planned: Planned) -> dict[str, Any]:
        own: dict[str, Any] = {} if planned.data is self.data[0] else {"dataset": planned.data.given}
        if planned.part is not None:
            own["split"] = {"part": list(planned.part)}
        return {"name": planned.name, "classes": planned.classes, **({"data": own} if own else {})}

    def _model(self) -> dict[str, Any]:
        schedule = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": RATE}}
        self.comments["model.init_args.network"] = self.grid.why["dims"]
        self.comments["model.init_args.scheduler"] = (
            "A warm-up in each experience, which spares what was learnt before."
        )
        return {
            "class_path": "RegionSegmenter" if self.regions else "Segmenter",
            "init_args": {
                "network": self.network,
                "features": FEATURES,
                **({"regions": self.regions} if self.regions else {}),
                **self._loss(),
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": RATE}},
                "scheduler": schedule,
            },
        }

    def _loss(self) -> dict[str, Any]:
        if not self.small:
            return {}
        options: dict[str, Any]
        named = ", ".join(self.small[:5]) + " and more" * (len(self.small) > 5)
        if self.grid.dims == 3:
            why, options = "that counts the background may never find them", {"include_background": False}
        else:
            why, options = "of each slice rewards finding nothing", {"batch": True, "smooth_nr": 0}
        self.comments["model.init_args.loss"] = f"{named} are below {SMALL:.1%} of a volume: a Dice loss {why}."
        arguments = {"softmax": True, "to_onehot_y": True, **options}
        return {"loss": {"class_path": "monai.losses.DiceCELoss", "init_args": arguments}}

    def _data(self) -> dict[str, Any]:
        normalise, self.comments["data.init_args.preprocessing.normalise"] = normalisation_of(self.data)
        for name in ("orientation", "spacing"):
            self.comments[f"data.init_args.preprocessing.{name}"] = self.grid.why[name]
        spacing = {"spacing": list(self.grid.spacing)} if self.grid.spacing else {}
        return {
            "dataset": self.data[0].given,
            "patch_size": self.patch,
            "batch_size": self.batch,
            "split": self.split,
            **self._foreground(),
            "preprocessing": {"orientation": self.grid.orientation, **spacing, "normalise": normalise},
            "augmentation": {"spatial": [_affine(self.grid.dims)]},
        }

    def _foreground(self) -> dict[str, Any]:
        axis = "RAS".index(self.grid.orientation[2])
        share = float(np.mean([facts.annotated[axis] for one in self.data for facts in one.cases]))
        if self.grid.dims == 3 or share >= SPARSE:
            return {}
        self.comments["data.init_args.foreground"] = f"{share:.0%} of the slices have a class: half of an epoch's do."
        return {"foreground": 0.5}

    def _trainer(self, root: str) -> dict[str, Any]:
        steps = ceil(self._samples() / self.batch)
        epochs = min(max(5, round(STEPS / steps)), EPOCHS)
        self.comments["trainer.max_epochs"] = (
            f"About {steps} steps an epoch. More is better where there is time: nnU-Net takes 250,000 steps."
        )
        trainer: dict[str, Any] = {
            "default_root_dir": root,
            "max_epochs": epochs,
            "check_val_every_n_epoch": max(1, epochs // 5),
        }
        trainer["log_every_n_steps"] = min(steps, 10)
        if len(self.planned) == 1:
            return trainer
        self.comments["trainer.callbacks"] = (
            "LwfSeg: the network of the experience before teaches its answers. Compare with --trainer.callbacks null."
        )
        arguments: dict[str, Any] = {"alpha": 0.5}
        if self.small:
            one_map = len(self.data) == 1 and not self.regions  # whose values exclude each other
            deep = self.grid.dims == 3  # in short fits of slices a strong term lets no new small class begin
            patches = 0.5 if deep else 0.3 * bool(self._foreground())  # or no slices are chosen
            options = {"dice": 1.0 if deep else 0.25, "exclusive": one_map, "old_patches": patches}
            options = {name: value for name, value in options.items() if value}
            self.comments["trainer.callbacks"] += f" For small classes: {', '.join(options)}."
            arguments |= options
        return {**trainer, "callbacks": [{"class_path": "Distillation", "init_args": arguments}]}


def _affine(dims: int) -> dict[str, Any]:
    turned = 0.2 if dims == 2 else [0.2, 0.2, 0.2]
    arguments = {
        "keys": ["image", "label"],
        "prob": 0.5,
        "rotate_range": turned,
        "scale_range": 0.1 if dims == 2 else [0.1] * 3,
    }
    return {
        "class_path": "RandAffined",
        "init_args": {**arguments, "mode": ["bilinear", "nearest"], "padding_mode": "border"},
    }


def _sites(data: Sequence[DataSetFacts]) -> str:
    """Name a key of the list by which its cases come from several places."""
    cases = [facts.case for one in data for facts in one.cases]
    for key in sorted({key for case in cases for key in case.keys} - {"split"}):
        values = sorted({case.keys.get(key, "") for case in cases})
        if 1 < len(values) <= 8:
            return (
                f" By the key {key} ({', '.join(values)[:100]}) there can be an experience of each, such as"
                f" `data: {{split: {{where: {{{key}: {values[0]}}}}}}}`."
            )
    return ""


def _require_alike(data: Sequence[DataSetFacts]) -> None:
    first = data[0]
    for other in data[1:]:
        if other.channels != first.channels:
            raise ValueError(
                f"{other.listed.source} has images of {other.channels} channels, and {first.listed.source} of"
                f" {first.channels}: no network takes both. Give data sets of the same channels."
            )
        if other.listed.regions != first.listed.regions:
            raise ValueError(
                f"{other.listed.source} and {first.listed.source} have different regions, and a RegionSegmenter has one"
                " set of them. Declare the same `labels` in both, or make a config of each."
            )
