"""One encoder for many data sets, to be the source of a transfer."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from lit_continual.data.batch import Batch
from lit_continual.files.whole_files import replaced
from lit_continual.networks import NETWORKS
from lit_continual.networks.small_maps import small_maps_exactly
from lit_continual.runs.checkpoints.classes import MODULES
from lit_continual.runs.checkpoints.spec import Spec
from lit_continual.runs.schedule import Schedule
from lit_continual.segmentation.loss_of_heads import loss_of_heads
from lit_continual.segmentation.segmenter import Segmenter

DENSE_UNET: Spec = {"class_path": "DenseNet121UNet", "init_args": {"in_channels": 1}}


@MODULES.add
class HydraNet(Segmenter):
    """Segment several data sets in one fit, with one encoder for all and a decoder and head for each.

    A training batch is a mapping task -> batch of :class:`Segmenter`, as Lightning's ``CombinedLoader`` gives; tasks
    may differ in classes, size and batch size. Images of one size go through the encoder together, so that its batch
    statistics are those of the mixture that it is evaluated with. The loss is the mean over tasks. Each group of
    classes of the data module gets its decoder when a fit starts; evaluation is that of :class:`Segmenter`.

    Args:
        network: A network with ``encoder`` and ``decoder``, where ``decoder(encoder(x))`` is the whole and the encoder
            returns tensors whose first axis is the batch; as plain data. Built with ``out_channels=features``.
        features: Channels of each decoder's output, the input of its head.
        heads: The class names of each task to begin with.
        roi_size: Size in voxels of the window slid over a volume; ``None`` takes the patch size of the data.
        loss: Loss of a head, called with its logits and the label map; ``None`` is Dice plus cross-entropy.
        optimizer: How to make the optimizer from the parameters.
        scheduler: See :class:`Segmenter`.
        post: See :class:`Segmenter`.

    Raises:
        MisconfigurationException: If a fit of several processes has a decoder without a batch, which DDP waits for.
        ValueError: If the network has no ``encoder`` and ``decoder``.

    Logs ``train/loss``, ``train/loss/<task>``, and what :class:`Segmenter` logs.

    References:
        Sagie, Almog, Talby and Greenspan. COVID-19 opacity segmentation in chest CT via HydraNet: a joint learning
        multi-decoder network. SPIE Medical Imaging 2021.

    Example:
        >>> narrow = {"class_path": "DenseNet121UNet", "init_args": {"decoder_channels": [8] * 5}}
        >>> hydra = HydraNet(narrow, features=4, heads=[["anterior", "posterior"], ["tumour"]]).eval()
        >>> hydra(torch.zeros(1, 1, 40, 40)).shape
        torch.Size([1, 5, 40, 40])
    """

    #: A training batch is a mapping of task to batch.
    trains_by_task = True

    def __init__(
        self,
        network: Spec = DENSE_UNET,
        features: int = 32,
        heads: Sequence[Sequence[str]] = (),
        roi_size: Sequence[int] | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: Schedule | None = None,
        post: Sequence[Spec] = (),
    ) -> None:
        super().__init__(network, features, heads, roi_size, loss, optimizer, scheduler, post)
        if not isinstance(getattr(self.body, "encoder", None), nn.Module) or not hasattr(self.body, "decoder"):
            raise ValueError(
                f"`network` must have an `encoder` and a `decoder`, and {type(self.body).__name__} has not. Use"
                " `class_path: DenseNet121UNet`."
            )
        self.body = nn.ModuleDict({"encoder": self.body.encoder})  # the names of `Segmenter(network)`, for transfer
        self.decoders = nn.ModuleList()
        self._asked: set[int] | None = None  # of the decoders; None for all
        self._add_decoders()

    def _add_decoders(self) -> None:
        for _ in self.heads.classes[len(self.decoders) :]:
            network = NETWORKS.build(self.hparams["network"], out_channels=self.hparams["features"])
            self.decoders.append(network.decoder.to(self.device))

    @override
    def grow(self, classes: Sequence[str]) -> None:
        super().grow(classes)
        self._add_decoders()

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        given = [list(head) for head in getattr(getattr(self.trainer, "datamodule", None), "head_classes", [])]
        silent = [head for head in self.heads.classes if head not in given]
        wrapped = self.trainer.model  # by now in what makes its gradients those of all processes
        if not (silent and given and isinstance(wrapped, DistributedDataParallel)):
            return
        if not (wrapped.find_unused_parameters or wrapped.static_graph):
            raise MisconfigurationException(
                f"The decoder of {', '.join(silent[0])} has no batch in this fit, so its weights have no gradient,"
                " which DDP waits for. Give --trainer.strategy=ddp_find_unused_parameters_true."
            )

    @override
    def forward(self, image: Tensor) -> Tensor:
        with small_maps_exactly(image):
            features = self.body["encoder"](image)
            logits = [
                self._decode(head, features)
                if self._asked is None or head in self._asked
                else image.new_zeros(len(image), len(channels), *image.shape[2:])
                for head, channels in enumerate(self.heads.channels)
            ]
            return torch.cat(logits, 1)

    @override
    def _evaluate(self, batch: Batch) -> dict[str, Any] | None:
        """Score one volume; without post-processing, only the decoders of the classes that it reveals run."""
        revealed = set(self.truths(batch))
        if not self.post.transforms:
            self._asked = {i for i, head in enumerate(self.heads.classes) if revealed & set(head)}
        try:
            return super()._evaluate(batch)
        finally:
            self._asked = None

    def _decode(self, head: int, features: Any) -> Tensor:
        logits: Tensor = self.heads.layers[head](self.decoders[head](features))
        return logits

    @override
    def training_step(  # type: ignore[override]  # a batch of each task
        self, batch: Mapping[str, Batch], batch_idx: int
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for tasks in _of_one_size(batch):
            features = self.body["encoder"](torch.cat([batch[task]["image"] for task in tasks]))
            start = 0
            for task in tasks:
                rows = slice(start, start := start + len(batch[task]["image"]))
                mine = [f[rows] for f in features] if isinstance(features, Sequence) else features[rows]
                head = self._head(task, batch[task])
                losses[task] = self._task_loss(head, self._decode(head, mine), batch[task])
        size = sum(len(part["image"]) for part in batch.values())
        self.log_dict({f"train/loss/{task}": loss for task, loss in losses.items()}, batch_size=size)
        total = torch.stack(list(losses.values())).mean()
        self.log("train/loss", total, prog_bar=True, batch_size=size)
        return {"loss": total}

    def _task_loss(self, head: int, logits: Tensor, part: Batch) -> Tensor:
        def terms(known: Tensor, label: Tensor, names: Sequence[str]) -> list[tuple[list[str], Tensor, Tensor]]:
            return [(self.heads.classes[head], known, label)]

        return loss_of_heads(self.loss, terms, logits, part["label"], self.names(part), part.get("annotated"))

    def _head(self, task: str, part: Batch) -> int:
        revealed = {*self.names(part)}
        head = list(next(iter(revealed)))
        if len(revealed) > 1 or head not in self.heads.classes:
            raise ValueError(
                f"Task {task} gave samples of {sorted(revealed)}, and the decoders are for"
                f" {self.heads.classes}. Let each task be one data module with the classes of one decoder."
            )
        return self.heads.classes.index(head)

    def export_encoder(self, path: str | Path) -> None:
        """Write the encoder's weights as ``encoder.<name>``, for ``Pretrained`` to load and ``L2SP`` to anchor to."""
        state = {f"encoder.{name}": t.detach().cpu().clone() for name, t in self.body["encoder"].state_dict().items()}
        with replaced(path) as temporary:
            torch.save(state, temporary)


def _of_one_size(batch: Mapping[str, Batch]) -> list[list[str]]:
    groups = defaultdict(list)
    for task, part in batch.items():
        groups[part["image"].shape[1:]].append(task)
    return list(groups.values())
