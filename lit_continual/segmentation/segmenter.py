"""Segmentation with a shared body and heads that grow."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from monai.losses import DiceCELoss
from monai.transforms import Compose
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.data.batch import Batch, names_of_samples
from lit_continual.networks import NETWORKS
from lit_continual.networks.small_maps import small_maps_exactly
from lit_continual.runs.checkpoints.classes import MODULES
from lit_continual.runs.checkpoints.parameters import checked_parameter
from lit_continual.runs.checkpoints.registry import flat
from lit_continual.runs.checkpoints.spec import Spec
from lit_continual.runs.schedule import Schedule
from lit_continual.segmentation.class_ratio_cross_entropy import measure
from lit_continual.segmentation.growth import grow_in_setup
from lit_continual.segmentation.heads import Heads, classes_beyond, described, make_heads
from lit_continual.segmentation.inference import Inference
from lit_continual.segmentation.loss_of_heads import loss_of_heads
from lit_continual.segmentation.masks import Masks
from lit_continual.segmentation.network_input import rehearse
from lit_continual.segmentation.post import TRANSFORMS
from lit_continual.segmentation.volume_scores import SCORES, VolumeScores
from lit_continual.segmentation.whole_volumes import WholeVolumes

WIDTHS = [64, 128, 256, 512, 1024, 64]  # the paper's; MONAI's LeakyReLU, unlike its ReLU, cannot switch a class off
UNET: Spec = {"class_path": "BasicUNet", "spatial_dims": 2, "features": WIDTHS, "norm": "BATCH", "dropout": 0.1}


@MODULES.add
class Segmenter(WholeVolumes):
    """Segment volumes, slice by slice or in 3D, with heads that grow by the classes of each experience.

    A batch is a :class:`~lit_continual.data.Batch`: ``image`` ``(B, C, *spatial)``, ``label`` ``(B, 1, *spatial)`` of
    integers, and ``classes``, for each sample the names that its label values 1, 2, … stand for, also joined by commas;
    without names it is not trained on, and where a batch has none, they are the data module's. With ``annotated``,
    ``(B, 1, *spatial)``, the loss is that of the voxels where it is true, and a volume is scored on the others. When a
    fit starts, the classes of the data module that are not known yet are added together. Of *separate* heads each has a
    background of its own and is trained on the samples that reveal its classes. A *shared* head is one softmax, trained
    on labels as they are: in a class increment its background holds the old classes too, which ``MiB`` and ``PLOP`` are
    for.

    Batch normalisation takes its statistics from the samples of one process, and ``norm: INSTANCE`` from each sample.

    Args:
        network: The body: ``class_path``, a network of MONAI by its name or any class, and ``init_args``. Plain data,
            so that a checkpoint can be loaded without a config. It is built with ``out_channels=features``.
        features: Channels of the body's output, the input of every head.
        heads: ``separate``, one for each group of classes, ``shared``, one softmax, or the classes of separate heads.
        roi_size: Size in voxels of the window slid over a volume; ``None`` takes the patch size of the data.
        loss: Loss of a head, called with its logits and the label map of its classes. ``None`` is Dice plus
            cross-entropy; ``ClassRatioCrossEntropy`` weighs the classes by their share of the training data.
        optimizer: How to make the optimizer from the parameters.
        scheduler: How to make the learning-rate schedule from the optimizer, stepped once an epoch. ``OneCycleLR``
            without ``total_steps`` and ``CosineAnnealingLR`` without ``T_max`` are as long as the fit.
        post: MONAI-style transforms of the label map of a volume, each as ``class_path`` and ``init_args``; a value is
            the place of a class in ``classes``, from 1, and none overlap.
        classes: The class names to begin with, in the groups in which they are learnt.
        inference: How to go over a volume; ``None`` takes that of the checkpoint that a stream starts from, if any.

    Raises:
        ValueError: If the network cannot be built, or the data reveal only some of the classes of a separate head.

    Logs ``train/loss`` and, per volume in its grid, ``val/dice`` and ``test/{dice,precision,assd,hd95}``: the mean over
    classes, of Dice over those that occur; each as ``…/<class>``; ``test/…/left_out``, the undefined cases.

    References:
        Ozdemir, Fuernstahl and Goksel. Learn the new, keep the old. MICCAI 2018, fig. 1.

    Example:
        >>> small = {"class_path": "BasicUNet", "init_args": {"spatial_dims": 2, "features": [8] * 6}}
        >>> Segmenter(small, features=8, heads=[["humerus"], ["scapula"]])(torch.zeros(1, 1, 32, 32)).shape
        torch.Size([1, 4, 32, 32])
    """

    def __init__(
        self,
        network: Spec = UNET,
        features: int = 64,
        heads: Heads = "separate",
        roi_size: Sequence[int] | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: Schedule | None = None,
        post: Sequence[Spec] = (),
        classes: Sequence[Sequence[str]] = (),
        inference: Inference | None = None,
    ) -> None:
        super().__init__()
        self.body = NETWORKS.build(network, out_channels=features)
        self.spatial_dims = 3 if any(isinstance(m, nn.Conv3d) for m in self.body.modules()) else 2
        self.loss = loss if loss is not None else DiceCELoss(softmax=True, to_onehot_y=True)
        self.heads = make_heads(heads, classes, features, self.spatial_dims, self.loss)
        plain = {"features": features, **described(self.heads), "roi_size": roi_size and list(roi_size)}
        plain |= {"network": NETWORKS.remembered(network), "post": list(map(flat, post))}
        given = {"inference": Inference.of(inference).plain()} if inference else {}
        self.save_hyperparameters(plain | given, logger=False)
        self.optimizer, self.scheduler, self.inference = optimizer, scheduler, Inference.of(inference)
        self.post = Compose([TRANSFORMS.build(step) for step in post])
        self.scores = VolumeScores([], [], self.device)  # of the evaluation that is running
        self._of_data: list[str] = []  # the classes of the data module

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, C, *spatial)`` to the logits of all heads."""
        with small_maps_exactly(image):
            return self.heads(self.body(image))  # type: ignore[no-any-return]

    def grow(self, classes: Sequence[str]) -> None:
        """Add those of ``classes`` that are not known yet, as one group.

        Raises:
            ValueError: If the classes are only a part of a separate head, which could not be trained on them.
        """
        if new := self.heads.missing(classes):
            self.heads.grow(new)
            self.hparams.update(described(self.heads))

    @override
    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        self._of_data = list(getattr(data, "classes", []))
        if stage == "fit" and data is not None and hasattr(data, "classes"):
            grow_in_setup(self, data)
            measure(self.loss, data, self.heads.classes)
            self.hparams["roi_size"] = self.hparams["roi_size"] or list(data.patch_size)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        logits, loss = self._answer(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(logits))
        return {"loss": loss, "logits": logits}

    def _answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of a training batch, and their loss."""
        logits = self(batch["image"])
        return logits, self.batch_loss(logits, batch)

    def names(self, batch: Batch) -> list[tuple[str, ...]]:
        """What the label values 1, 2, … of each sample stand for; also of batches that others make."""
        return names_of_samples(batch, self._of_data or self.classes)

    def batch_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Loss that a batch is trained on, of its logits ``(B, C, *spatial)``."""
        given = (batch["label"], self.names(batch), batch.get("annotated"))
        return loss_of_heads(self.loss, self.heads.terms, logits, *given)

    @override
    def on_validation_epoch_start(self) -> None:
        self._start_scores(["dice"])

    @override
    def on_test_epoch_start(self) -> None:
        self._start_scores(list(SCORES))

    def _start_scores(self, scores: list[str]) -> None:
        classes = getattr(getattr(self.trainer, "datamodule", None), "classes", self.classes)
        self.scores = VolumeScores(self._revealed(classes), scores, self.device)

    def _revealed(self, classes: Iterable[str]) -> list[str]:
        return [name for name in classes if name in self.classes]

    def truths(self, batch: Batch) -> Mapping[str, Tensor]:
        """The mask ``(B, *spatial)`` of each known class in a batch that reveals the same classes throughout."""
        names = self.names(batch)[0]
        return Masks(self._revealed(names), lambda name: batch["label"][:, 0] == names.index(name) + 1)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        return self._evaluate(batch)

    def _evaluate(self, batch: Batch) -> dict[str, Any] | None:
        """Score one volume in its source grid; return its masks and scores by class, or nothing of another rank's."""
        if "padding" in batch:
            return None
        given = (self.truths(batch), batch["spacing"], batch.get("annotated"))
        return self.scores.compare(self.predicted_masks(batch), *given)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        for name, value in self.scores.logged(counts=stage == "test").items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "dice", sync_dist=True)
        self.scores = VolumeScores([], [], self.device)

    @override
    def rehearse(self, data: Any, epochs: int | None) -> None:
        super().rehearse(data, epochs)
        rehearse(self, data)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        known = checkpoint["hyper_parameters"]
        for group in classes_beyond(self.heads, known):
            self.grow(group)
        window = checked_parameter("roi_size", known["roi_size"], ())
        self.hparams["roi_size"] = self.hparams["roi_size"] or window  # Dice falls with another window.
        if "inference" not in self.hparams and "inference" in known:
            self.inference, self.hparams["inference"] = Inference.of(known["inference"]), known["inference"]
        self.origin = {**(checkpoint.get("origin") or {})}
        if not hasattr(self, "auxiliary"):  # heads of deep supervision, which no prediction asks
            for name in [name for name in checkpoint["state_dict"] if name.startswith("auxiliary.")]:
                del checkpoint["state_dict"][name]
