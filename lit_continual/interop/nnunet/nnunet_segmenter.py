"""A trained model of nnU-Net that learns further classes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lit_continual.data.batch import Batch
from lit_continual.data.case_lists.cases import Case
from lit_continual.interop.deeply_supervised import DeeplySupervised
from lit_continual.interop.nnunet.network import build_network, is_deeply_supervised, slide, without_output_layers
from lit_continual.interop.nnunet.piecewise import axes_to_file, blocks, interpolated
from lit_continual.interop.nnunet.preparation import prepared, restored, theirs
from lit_continual.interop.nnunet.trained import Trained
from lit_continual.runs.checkpoints.classes import MODULES
from lit_continual.runs.checkpoints.spec import Spec
from lit_continual.runs.schedule import Schedule
from lit_continual.segmentation.folded_layer import folded_heads
from lit_continual.segmentation.heads import Heads, described, make_heads
from lit_continual.segmentation.inference import Inference
from lit_continual.segmentation.shared_head import SharedHead
from lit_continual.segmentation.source_grid import Axis, Everywhere, Piece, pieces_of

NOTHING: Spec = {"class_path": "Identity"}  # until there is a model
THEIRS = Inference(overlap=0.5, sw_batch_size=1)  # nnU-Net's
CERTAIN = 100.0  # logits between the background and a class where nnU-Net has cropped; exp(-100) is 0 in float32


@MODULES.add
class NNUNetSegmenter(DeeplySupervised):
    """Extend a trained model of nnU-Net v2 by heads for new classes.

    The body is its network up to the last layer, which is the first head as it stands. Images are prepared, predicted
    and brought back by nnU-Net's own code, so that the label maps of the model before it has learnt anything are those
    of ``nnUNetv2_predict``. Its layers at lower resolutions, of deep supervision, are heads as well, which grow by the
    same classes; no prediction asks them. Methods see the logits at full resolution.

    Args:
        trained: What the folder of the model says, as its checkpoint's ``hyper_parameters`` hold it. Without it, the
            module takes the network of the checkpoint that it starts from, such as ``stream.start``.
        heads: ``"separate"`` or ``"shared"``, see :class:`Segmenter`; or the class names of each separate head to begin
            with. The first head, or the first classes, are those of the model.
        roi_size: Size in voxels of the window slid over a volume; ``None`` takes the patch size of the plans.
        loss: See :class:`Segmenter`.
        optimizer: See :class:`Segmenter`.
        scheduler: See :class:`Segmenter`.
        post: See :class:`Segmenter`.
        classes: The class names to begin with, in the groups in which they are learnt.
        deep_supervision: Whether the loss is the mean over the resolutions of the decoder, with nnU-Net's weights; see
            :func:`~lit_continual.interop.deep_supervision.supervision_weights`. ``None``: if the trainer of the
            model does so.
        inference: How to go over a volume, see :class:`Segmenter`; ``None`` takes that of the checkpoint that a stream
            starts from, or nnU-Net's. Windows go through the network one by one, and padding and resampling are
            nnU-Net's.

    Raises:
        ValueError: If the model cannot be extended, nnunetv2 is not installed, or ``inference`` asks for what nnU-Net
            does not do.
        MisconfigurationException: If a fit begins without a network.

    References:
        Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation.
        Nature Methods 18, 2021.

    Example:
        >>> module = NNUNetSegmenter()
        >>> module.trained is None, module.classes
        (True, [])
    """

    #: What may be said of the way over a volume: nnU-Net's ``tile_step_size`` is 1 less the overlap.
    CHOICES = ("overlap", "stitch_device")

    def __init__(
        self,
        trained: dict[str, Any] | None = None,
        heads: Heads = "separate",
        roi_size: Sequence[int] | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.SGD,
        scheduler: Schedule | None = None,
        post: Sequence[Spec] = (),
        classes: Sequence[Sequence[str]] = (),
        deep_supervision: bool | None = None,
        inference: Inference | None = None,
    ) -> None:
        super().__init__(
            network=NOTHING,
            features=1,
            heads=heads if isinstance(heads, str) else "separate",
            roi_size=roi_size,
            loss=loss,
            optimizer=optimizer,
            scheduler=scheduler,
            post=post,
            inference=inference,
        )
        self.inference = Inference.of(inference or THEIRS)
        if (self.inference.padding_mode, self.inference.resample) != (THEIRS.padding_mode, THEIRS.resample):
            raise ValueError(
                f"nnU-Net pads with zeros and resamples logits, and `inference` is {self.inference}. Leave out its"
                " `padding_mode` and `resample`."
            )
        for name in ("network", "features"):  # which follow from the plans
            del self.hparams[name]
        self.trained: Trained | None = None
        #: Whether a prediction is the mean over mirrored images too, where training has mirrored.
        self.mirror = False
        self.hparams.update(trained=trained, deep_supervision=deep_supervision)
        if trained is not None:
            self._build(Trained.of(trained), heads, classes)

    def _build(self, trained: Trained, heads: Heads, classes: Sequence[Sequence[str]] = ()) -> None:
        self.trained = trained
        self.body, features = without_output_layers(build_network(trained, len(trained.classes) + 1))
        self.spatial_dims = len(trained.patch_size)
        *auxiliary, self.heads = (make_heads(heads, classes, n, self.spatial_dims, self.loss) for n in features)
        self.auxiliary = nn.ModuleList(auxiliary)
        if self.hparams["deep_supervision"] is None:
            self.hparams["deep_supervision"] = is_deeply_supervised(trained)
        self.hold_unsupervised()
        known = {"trained": trained.plain(), **described(self.heads)}
        self.hparams.update(known, roi_size=self.hparams["roi_size"] or trained.patch_size)

    @property
    def model(self) -> Trained:
        """The model that is extended.

        Raises:
            MisconfigurationException: If there is none.
        """
        if self.trained is None:
            raise MisconfigurationException(
                "`NNUNetSegmenter` has no network: it extends a trained model of nnU-Net. Give its folder as"
                " --stream.start, or take the module of `Checkpoint(FOLDER)`."
            )
        return self.trained

    def load_case(self, case: Case) -> Any:
        """Load the image of a case and prepare it as nnU-Net does."""
        return prepared(case, self.model)

    @override
    def setup(self, stage: str) -> None:
        _ = self.model
        super().setup(stage)

    @override
    def rehearse(self, data: Any, epochs: int | None) -> None:
        _ = self.model
        super().rehearse(data, epochs)

    @override
    def infer(self, image: Tensor) -> Tensor:
        """Map prepared volumes ``(B, C, *spatial)`` to logits by nnU-Net's sliding window."""
        return self._of_heads(self._folded(image))

    @override
    def _infer(self, batch: Batch) -> Tensor:
        with self._network_on(batch):
            folded = self._folded(batch["image"])[0]
        return self._of_heads(restored(folded, batch, self.model, self._outside)[None].to(folded.device))

    @override
    def _axes(self, batch: Batch) -> list[Axis] | None:
        return axes_to_file(batch, self.model, theirs(batch["image"][0], self.model).shape[1:])

    @override
    def _pieces(self, batch: Batch) -> Iterator[tuple[Piece | Everywhere, Tensor]]:
        axes, image = self._axes(batch) or [], batch["image"]
        yield Everywhere(), self._of_heads(self._outside.half().view(1, -1, 1, 1, 1).to(image.device))
        ask, kind = self._convolved(), image.device.type
        gpu = kind == "cuda"  # nnU-Net's own precision

        def forward(windows: Tensor) -> Tensor:
            own = torch.autocast(kind, enabled=gpu) if gpu or torch.is_autocast_enabled(kind) else nullcontext()
            with own, self._network_on(batch):
                return ask(windows)

        given = (theirs(image[0], self.model), self.model, self.hparams["roi_size"], self.mirror, self.inference)
        for block in blocks(forward, *given, halo=1):
            for piece in pieces_of(block, axes, nearest=False):
                found = interpolated(piece.block.values, piece.local_places)
                yield piece, self._of_heads(found[None].to(image.device))

    @property
    def _outside(self) -> Tensor:
        """Logits of one softmax where nnU-Net has cropped."""
        return torch.tensor([0.0, *[-CERTAIN] * len(self.classes)])

    def _folded(self, image: Tensor) -> Tensor:
        """Logits of one softmax over all classes, as a folder that is written predicts them, in half precision."""
        forward, window = self._convolved(), self.hparams["roi_size"]
        flat = self.spatial_dims == 2  # whose slices are along nnU-Net's first axis
        volumes = [volume.movedim(-1, 1) if flat else volume for volume in image]
        kind = image.device.type
        off = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
        with off:  # nnU-Net's own precision
            found = [slide(forward, v, self.model, self.classes, window, self.mirror, self.inference) for v in volumes]
            return torch.stack([logits.movedim(1, -1) if flat else logits for logits in found])

    def _convolved(self) -> Callable[[Tensor], Tensor]:
        """The network with its heads folded into one layer."""
        weight, bias = folded_heads(self.heads)
        convolve = F.conv2d if self.spatial_dims == 2 else F.conv3d
        return lambda patches: convolve(self.body(patches), weight, bias)

    def _of_heads(self, folded: Tensor) -> Tensor:
        """The logits of all heads that fold to the given ones: their backgrounds are equal."""
        logits = folded.float()
        if isinstance(self.heads, SharedHead):
            return logits
        ends = torch.tensor([len(head) for head in self.heads.classes]).cumsum(0).tolist()
        parts = [
            logits[:, [0, *range(end - len(head) + 1, end + 1)]]
            for head, end in zip(self.heads.classes, ends, strict=True)
        ]
        return torch.cat(parts, 1)

    @override
    def to_source_grid(self, volume: Tensor, batch: Batch) -> Tensor:
        """Bring an image ``(1, C, *spatial)`` to the grid of its file, for pictures."""
        lowest = volume[0].flatten(1).amin(1)
        return restored(volume[0].float(), batch, self.model, lowest)[None].to(volume.device)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trained is None:
            known = checkpoint["hyper_parameters"].get("trained")
            self._build(Trained.of(known), "shared" if isinstance(self.heads, SharedHead) else "separate")
            self.to(self.device)
        super().on_load_checkpoint(checkpoint)
