"""A segmenter that takes its network from the model that it starts from."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import OptimizerCallable
from monai.transforms import Compose
from torch import Tensor, nn
from torch.nn.functional import interpolate
from typing_extensions import override

from lit_continual.data.batch import Batch
from lit_continual.interop.deeply_supervised import DeeplySupervised
from lit_continual.networks import NETWORKS
from lit_continual.runs.checkpoints.classes import MODULES, TRANSFORMS
from lit_continual.runs.checkpoints.spec import Spec
from lit_continual.runs.schedule import Schedule
from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.heads import Heads, make_heads
from lit_continual.segmentation.inference import Inference
from lit_continual.segmentation.loss_of_heads import loss_of_heads
from lit_continual.segmentation.shared_head import SharedHead

NOTHING: Spec = {"class_path": "torch.nn.Identity"}  # until there is a model


@MODULES.add
class BundleSegmenter(DeeplySupervised):
    """Extend a MONAI bundle by heads for new classes, without a word about its network.

    Network, first head, window and post-processing are those of the bundle, or of the checkpoint of a segmenter, that a
    stream starts from. A plain :class:`Segmenter` extends a bundle too, where ``network`` and ``features`` describe it.

    The heads of deep supervision of a ``DynUNet`` are heads as well, which grow by the same classes. Their logits are
    brought to full resolution by the nearest voxel, as in ``DynUNet``, and the loss is the mean over resolutions with
    weights :math:`2^{-i}`, as in MONAI's ``DeepSupervisionLoss`` but for a factor. No prediction asks them.

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
        deep_supervision: Whether heads at lower resolutions are trained, where the model has such.
        auxiliary: Channels that these heads see, from the lowest resolution; empty takes those of the model.

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
        deep_supervision: bool = True,
        auxiliary: Sequence[int] = (),
    ) -> None:
        shared = roi_size, loss, optimizer, scheduler, post, classes, inference
        super().__init__(network or NOTHING, features, heads, *shared)
        self._waits = network is None
        self.hparams.update(deep_supervision=deep_supervision)
        self._supervise(auxiliary)

    def _supervise(self, channels: Sequence[int]) -> None:
        """Make heads at lower resolutions that see so many channels."""
        mine = self.hparams["heads"], self.hparams.get("classes") or ()
        made = (make_heads(*mine, n, self.spatial_dims, self.loss) for n in channels)
        self.auxiliary = nn.ModuleList(made)
        self.hparams.update(auxiliary=list(channels))
        if channels:
            self.hold_unsupervised()

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return list(self.body.upsamples)[-1 - len(self.auxiliary) : -1]

    @override
    def shares(self, count: int) -> list[float]:
        weights = [2.0**-i for i in range(count)]
        return [weight / sum(weights) for weight in weights]

    @override
    def lower_loss(self, heads: GrowingHeads | SharedHead, features: Tensor, batch: Batch) -> Tensor:
        logits = interpolate(heads(features), batch["label"].shape[2:])
        given = (batch["label"], self.names(batch), batch.get("annotated"))
        return loss_of_heads(self.loss, heads.terms, logits, *given)

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
        self._supervise([int(n) for n in known.get("auxiliary") or ()])
        self._waits = False

    def _take_lower(self, checkpoint: dict[str, Any]) -> None:
        """Take the heads at lower resolutions of a bundle, which stand beside the weights that any segmenter has."""
        given = checkpoint.get("auxiliary") or {}
        firsts = [given[name].shape[1] for name in given if name.endswith(".layers.0.weight")]
        if firsts and not self.auxiliary:
            self._supervise(firsts)
        checkpoint["state_dict"].update(given)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._waits:
            self._take(checkpoint["hyper_parameters"])
        self._take_lower(checkpoint)
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
