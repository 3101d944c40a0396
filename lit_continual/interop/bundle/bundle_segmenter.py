"""A segmenter that takes its network from the model that it starts from."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import OptimizerCallable
from monai.transforms import Compose
from torch import nn
from typing_extensions import override

from lit_continual.networks import NETWORKS
from lit_continual.runs.classes import MODULES, TRANSFORMS
from lit_continual.runs.schedule import Schedule
from lit_continual.runs.spec import Spec
from lit_continual.segmentation.heads import Heads, make_heads
from lit_continual.segmentation.inference import Inference
from lit_continual.segmentation.segmenter import Segmenter

NOTHING: Spec = {"class_path": "torch.nn.Identity"}  # until there is a model


@MODULES.add
class BundleSegmenter(Segmenter):
    """Extend a MONAI bundle by heads for new classes, without a word about its network.

    Network, first head, window and post-processing are those of the bundle, or of the checkpoint of a segmenter, that a
    stream starts from. A plain :class:`Segmenter` extends a bundle too, where ``network`` and ``features`` describe it.

    Args:
        network: See :class:`Segmenter`; ``None`` takes that of the model it starts from.
        features: See :class:`Segmenter`; of no meaning without a network.
        heads: ``"separate"`` or ``"shared"``, see :class:`Segmenter`; or the class names of each separate head to begin
            with. The first head, or the first classes, are those of the model.
        roi_size: See :class:`Segmenter`; ``None`` takes that of the model.
        loss: See :class:`Segmenter`.
        optimizer: See :class:`Segmenter`.
        scheduler: See :class:`Segmenter`.
        post: See :class:`Segmenter`; empty takes those of the model.
        classes: See :class:`Segmenter`.
        inference: See :class:`Segmenter`; ``None`` takes that of the model.

    Raises:
        MisconfigurationException: If a fit begins without a network.

    Example:
        >>> module = BundleSegmenter()
        >>> module.classes
        []
    """

    def __init__(
        self,
        network: Spec | None = None,
        features: int = 1,
        heads: Heads = "separate",
        roi_size: Sequence[int] | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: Schedule | None = None,
        post: Sequence[Spec] = (),
        classes: Sequence[Sequence[str]] = (),
        inference: Inference | None = None,
    ) -> None:
        shared = roi_size, loss, optimizer, scheduler, post, classes, inference
        super().__init__(network or NOTHING, features, heads, *shared)
        self._waits = network is None

    def _take(self, known: Mapping[str, Any]) -> None:
        """Build the network of a checkpoint: of what any file may name, or the caller trusts it to."""
        spec, features = NETWORKS.checked(known["network"]), int(known["features"])
        post = list(self.hparams["post"]) or [TRANSFORMS.checked(step) for step in known.get("post") or ()]
        self.body = NETWORKS.build(spec, out_channels=features)
        self.spatial_dims = 3 if any(isinstance(m, nn.Conv3d) for m in self.body.modules()) else 2
        mine = self.hparams["heads"], self.hparams.get("classes") or ()
        self.heads = make_heads(*mine, features, self.spatial_dims, self.loss)
        self.post = Compose([TRANSFORMS.build(step) for step in post])
        self.hparams.update({"network": spec, "features": features, "post": post})
        self._waits = False

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._waits:
            self._take(checkpoint["hyper_parameters"])
            self.to(self.device)
        super().on_load_checkpoint(checkpoint)

    @override
    def setup(self, stage: str) -> None:
        self._require_network()
        super().setup(stage)

    @override
    def rehearse(self, data: Any, epochs: int | None) -> None:
        self._require_network()
        super().rehearse(data, epochs)

    def _require_network(self) -> None:
        if self._waits:
            raise MisconfigurationException(
                "`BundleSegmenter` has no network: it takes that of the model it starts from. Give a bundle as"
                " --stream.start, or take the module of `Checkpoint(BUNDLE)`."
            )
