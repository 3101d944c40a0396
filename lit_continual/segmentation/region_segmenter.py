"""Segmentation of regions that overlap, made of the classes that are annotated."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.data.batch import Batch
from lit_continual.runs.checkpoints.checkpointed_module import CheckpointedModule
from lit_continual.runs.checkpoints.classes import MODULES
from lit_continual.runs.checkpoints.parameters import checked_parameter
from lit_continual.runs.checkpoints.spec import Spec
from lit_continual.runs.schedule import Schedule
from lit_continual.segmentation.label_map import folded_logits, label_map
from lit_continual.segmentation.masks import Masks
from lit_continual.segmentation.segmenter import UNET, Segmenter

#: The nested regions that BraTS scores, of its labels.
BRATS = {
    "whole_tumour": ["necrosis", "oedema", "enhancing"],
    "tumour_core": ["necrosis", "enhancing"],
    "enhancing_tumour": ["enhancing"],
}


@MODULES.add
class RegionSegmenter(Segmenter):
    """Segment regions, each a union of annotated classes, with one head for each: a multi-label segmenter.

    Data reveal classes that exclude each other, such as necrosis, oedema and enhancing tumour. Trained, scored and
    shown are regions of them, which may overlap; a label map shows the innermost. A sample trains the regions all of
    whose classes it reveals.

    Args:
        network: See :class:`Segmenter`.
        features: See :class:`Segmenter`.
        regions: The classes of each region; by default whole tumour, tumour core and enhancing tumour of BraTS.
        roi_size: See :class:`Segmenter`.
        loss: Loss of a head, called with its two logits and the mask of its region.
        optimizer: See :class:`Segmenter`.
        scheduler: See :class:`Segmenter`.

    Raises:
        ValueError: If a region has no class, or, when a fit starts, the data do not reveal the classes of any.

    References:
        Menze et al. The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS). IEEE TMI 2015.

    Example:
        >>> arguments = {"spatial_dims": 2, "in_channels": 4, "features": [8] * 6}
        >>> small = {"class_path": "BasicUNet", "init_args": arguments}
        >>> module = RegionSegmenter(small, features=8)
        >>> label = torch.tensor([[[[0, 1], [2, 3]]]])
        >>> module.truths({"label": label, "classes": [("necrosis", "oedema", "enhancing")]})["tumour_core"].int()
        tensor([[[0, 1],
                 [0, 1]]], dtype=torch.int32)
    """

    def __init__(
        self,
        network: Spec = UNET,
        features: int = 64,
        regions: Mapping[str, Sequence[str]] = BRATS,
        roi_size: Sequence[int] | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: Schedule | None = None,
    ) -> None:
        if empty := [region for region, classes in regions.items() if not classes]:
            raise ValueError(f"`regions` must name the classes of each region, and {empty[0]} has none.")
        super().__init__(network, features, [[region] for region in regions], roi_size, loss, optimizer, scheduler)
        self.regions = {region: list(classes) for region, classes in regions.items()}
        self.hparams["regions"] = self.regions
        for name in ("heads", "post"):  # which follow from the regions
            del self.hparams[name]

    @override
    def grow(self, classes: Sequence[str]) -> None:
        if not self._revealed(classes):
            raise ValueError(
                f"The data reveal {', '.join(classes)}, of which no region of {self.regions} is made. Correct"
                " `regions` or the `classes` of the data."
            )

    @override
    def _revealed(self, classes: Iterable[str]) -> list[str]:
        known = set(classes)
        return [region for region, parts in self.regions.items() if known.issuperset(parts)]

    @override
    def truths(self, batch: Batch) -> Mapping[str, Tensor]:
        names = self.names(batch)[0]
        values = {region: [names.index(part) + 1 for part in self.regions[region]] for region in self._revealed(names)}
        label = batch["label"][:, 0]
        return Masks(list(values), lambda region: torch.isin(label, label.new_tensor(values[region])))

    @override
    def winners(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)``, voxel by voxel, to label maps ``(B, *spatial)`` of the innermost regions."""
        return label_map(folded_logits(logits, self.head_channels), list(self.regions.values()))

    @override
    def batch_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        samples = [
            self.truths({"label": label[None], "classes": [names]})
            for label, names in zip(batch["label"], self.names(batch), strict=True)
        ]
        total = logits[:0].sum()
        for region in self.regions:
            label = torch.stack([truths.get(region, batch["label"][i] * 0) for i, truths in enumerate(samples)])
            revealed: list[tuple[str, ...]] = [(region,) if region in truths else () for truths in samples]
            mine: Batch = {**batch, "label": label.long(), "classes": revealed}
            total = total + super().batch_loss(logits, mine)
        return total

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        CheckpointedModule.on_load_checkpoint(self, checkpoint)
        window = checked_parameter("roi_size", checkpoint["hyper_parameters"]["roi_size"], ())
        self.hparams["roi_size"] = self.hparams["roi_size"] or window
