"""Distillation: the old network teaches the new one its answers (LwfSeg)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, device, nn
from typing_extensions import override

from lit_continual.methods.bases.fit.precision import full_precision
from lit_continual.methods.bases.layout import lay_for_evaluation
from lit_continual.methods.bases.old_network import answers
from lit_continual.methods.bases.old_network.logits import heads_of, origins
from lit_continual.methods.bases.old_network.taught_term import TaughtTerm
from lit_continual.methods.distillation.loss import dice_distillation_loss, distillation_loss
from lit_continual.segmentation.label_map import folded_logits, folded_winners, largest
from lit_continual.segmentation.merged_background import merged_background


class Distillation(TaughtTerm):
    r"""Keep the old classes by training their outputs towards those of the old network.

    .. math:: L = \alpha L_c + (1 - \alpha) L_d \text{ for a new sample}, \qquad L = L_d \text{ for an exemplar}

    :math:`L_c` is the module's own loss, which leaves exemplars out, and :math:`L_d` is
    :func:`~lit_continual.functional.distillation_loss` on the channels that the old network has, plus ``dice`` times
    :func:`~lit_continual.functional.dice_distillation_loss`. The first is the paper's, a mean over voxels, in which a
    small class weighs little; the second defends each old class however small it is. Samples are told
    apart by ``batch["origin"]``, a list of ``"new"`` and ``"exemplar"``; without it all are new. A module without
    ``head_channels`` has one loss for a whole batch, which must then be of one origin.

    Args:
        alpha: :math:`\alpha`, share of the module's own loss, in [0, 1].
        temperature: :math:`T`, divides the logits of both networks.
        targets: ``"online"`` asks the teacher about each augmented batch; ``"cached"`` asks once, about the training
            images without augmentation, and sends its answers through the spatial augmentation with the image. The
            latter costs no forward pass but needs a data module with ``cache_targets(key, predict)``.
        teacher: The old network: ``None`` for what the last fit left (the first fit then trains plainly), ``"start"``
            for the weights at the start of this fit, the path of a Lightning checkpoint of the module's class, or in
            Python the old module itself, which is copied.
        heads: Channels of each softmax head, or ``"sigmoid"`` for independent classes. ``None`` takes
            ``pl_module.head_channels`` where the module has them, else one softmax over all channels, of which there
            must then be two or more.
        logits: How to get ``(B, C, *spatial)`` logits, ``(B, C)`` of a classifier: called with the student or the
            teacher, and the batch. ``None`` takes what the module's own ``forward`` returned in ``training_step``, and
            asks the teacher with the arguments of that call: the tensor, the ``logits`` or ``out`` of a mapping or
            object, or the part of it that the step returns as ``outputs["logits"]``. Of several calls it is the one
            that returned ``outputs["logits"]``, else the last with a gradient. Where the step does not call
            ``forward``, both networks are asked about ``batch["image"]`` or the first part of the batch.
        name: Tells this instance from others of its class, in the logs and in checkpoints.
        dice: Weight of the Dice term in :math:`L_d`; 0 is the paper's loss.
        old_patches: Share of the patches with a centre that are centred on what the teacher finds in the new images,
            on each of its classes as often, and not on what is annotated; and of the slices that are chosen for a
            class (``data.foreground``), the share that show what it finds. Else old classes are hardly seen. Needs a
            data module with ``centre_patches(predict, labels, share)``; 0 leaves patches and slices as they are.
        exclusive: Whether classes exclude each other, old and new: the Dice term then compares one softmax over all
            classes, in which new ones are a part of the background. A new head that claims the voxels of an old class,
            which its own head still finds, costs the term, as it costs the label map.

    Raises:
        ValueError: If an argument is out of range or without effect, or the teacher cannot be read.
        MisconfigurationException: If targets are to be cached, or patches centred, and the data module cannot; in the
            first step, if the two networks cannot be asked alike, the teacher answers otherwise in evaluation mode, or
            it is not clear what its channels are.

    Logs ``train/<name>``, the weighted :math:`L_d`, at every step with a teacher.

    References:
        Ozdemir, Fuernstahl and Goksel. Learn the new, keep the old. MICCAI 2018, eq. 1 and 2.
        Li and Hoiem. Learning without Forgetting. ECCV 2016.

    Example:
        >>> callback = Distillation(alpha=0.5)
    """

    #: Exemplars are trained on the old network's answers alone.
    hides_labels = True

    def __init__(
        self,
        alpha: float = 0.5,
        temperature: float = 1.0,
        targets: Literal["online", "cached"] = "online",
        teacher: str | Path | nn.Module | None = None,
        heads: list[list[int]] | Literal["sigmoid"] | None = None,
        logits: Callable[..., Any] | None = None,
        name: str = "distillation",
        dice: float = 0.0,
        old_patches: float = 0.0,
        exclusive: bool = False,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"`alpha` must be in [0, 1], got {alpha}.")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        if not 0 <= dice < float("inf"):
            raise ValueError(f"`dice` must be a finite number of at least 0, got {dice}.")
        if exclusive and not dice:
            raise ValueError("`exclusive` is of the Dice term, and `dice` is 0. Give it a weight, or drop `exclusive`.")
        if not 0 <= old_patches <= 1:
            raise ValueError(f"`old_patches` must be in [0, 1], got {old_patches}.")
        if targets not in ("online", "cached"):
            raise ValueError(f"`targets` must be 'online' or 'cached', got {targets!r}.")
        super().__init__(teacher, logits, name)
        self.dice, self.old_patches, self.exclusive = dice, old_patches, exclusive
        self.alpha, self.temperature, self.targets, self.heads = alpha, temperature, targets, heads

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self._teacher is not None:
            lay_for_evaluation(self._teacher.module, pl_module.device)  # the loss is smooth: last bits do not matter
            self._look_ahead(trainer, pl_module.device)

    def _look_ahead(self, trainer: Trainer, where: device) -> None:
        """Ask the teacher about the training images before the first step, where an option wants that."""

        def ask(image: Tensor) -> Tensor:
            return self.ask(answers.of_images({"image": image.to(where)})).to(image.device)

        if self.old_patches:
            self._hook(trainer, "old_patches", "centre_patches", "0")(ask, self._labels, self.old_patches)
        if self.targets == "cached":
            self._hook(trainer, "targets", "cache_targets", "'online'")(self.name, ask)
            self._teacher.module.cpu()  # type: ignore[union-attr]  # it is not asked again in this fit

    def _hook(self, trainer: Trainer, option: str, name: str, without: str) -> Callable[..., None]:
        """Return the method of the data module that an option needs."""
        hook: Callable[..., None] | None = getattr(getattr(trainer, "datamodule", None), name, None)
        if hook is None:
            raise MisconfigurationException(
                f"`Distillation({option}={getattr(self, option)!r})` needs a data module with `{name}`, such as"
                f" `SegmentationDataModule`. Set {option}={without} with this data."
            )
        return hook

    def _labels(self, logits: Tensor) -> Tensor:
        """Map the teacher's logits ``(B, K, …)`` to label maps ``(B, …)`` of its classes."""
        heads = heads_of(self.heads, self._teacher.module, logits, self.logits is None)  # type: ignore[union-attr]
        if heads is None:
            return largest(torch.cat([torch.zeros_like(logits[:, :1]), logits], 1))
        return folded_winners(logits, heads)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hide the classes of exemplars: with a teacher, they are trained on its answers alone (eq. 1)."""
        origin = origins(batch)
        if self._teacher is None or "exemplar" not in origin:
            return
        if isinstance(batch, dict) and "classes" in batch and hasattr(pl_module, "head_channels"):
            pairs = zip(batch["classes"], origin, strict=True)
            batch["classes"] = [type(names)() if one == "exemplar" else names for names, one in pairs]
        elif "new" in origin:
            raise MisconfigurationException(
                f"`{type(pl_module).__name__}` has one loss for a batch of new samples and exemplars, and would train"
                " the exemplars on their own labels, where `Distillation` trains them on the old network's answers"
                " alone. Set `batches='pure'` in `Exemplars`."
            )

    @override
    def compute(self, pl_module: LightningModule, batch: Any, outputs: Any) -> Tensor | None:
        self.see_channels(pl_module, outputs)
        if self._teacher is None:
            return None
        whole, ask = self.question(pl_module, batch, outputs)
        teacher = batch[self.name] if self.targets == "cached" and isinstance(batch, Mapping) else self.ask(ask)
        student = whole[:, : teacher.shape[1]]
        answers.require_same_shape(student, teacher)
        heads = heads_of(self.heads, self._teacher.module, teacher, self.logits is None)
        losses = distillation_loss(student, teacher, heads, self.temperature, "per_sample")
        if self.dice:
            losses = losses + self.dice * self._dice(pl_module, whole, teacher, heads)
        if not (origin := origins(batch)):
            return (1 - self.alpha) * losses.mean()
        weights = [1.0 if o == "exemplar" else 1 - self.alpha for o in origin]
        return (losses * losses.new_tensor(weights)).mean()

    def _dice(
        self, pl_module: LightningModule, student: Tensor, teacher: Tensor, heads: Sequence[Sequence[int]] | None
    ) -> Tensor:
        """The Dice term of each sample, of all logits of the network in training and those of the old one."""
        count = teacher.shape[1]
        if not self.exclusive:
            return dice_distillation_loss(student[:, :count], teacher, heads, self.temperature, reduction="per_sample")
        mine = heads_of(None, pl_module, student, self.logits is None) or []
        known = [[c for c in head if c < count] for head in mine]
        if heads is None or [head for head in known if len(head) > 1] != [[*head] for head in heads]:
            raise MisconfigurationException(
                f"`Distillation(exclusive=True)` needs softmax heads that both networks have: {mine} are those of the"
                f" network in training, and {heads} of the old one. Leave out `exclusive`."
            )
        new = [k for k, c in enumerate((c for head in mine for c in head[1:]), 1) if c >= count]
        old = folded_logits(full_precision(teacher) / self.temperature, heads)
        found = merged_background(folded_logits(full_precision(student) / self.temperature, mine), new)
        return dice_distillation_loss(found, old, [[*range(old.shape[1])]], reduction="per_sample")

    @override
    def share_of_loss(self, batch: Any) -> float:
        if self._teacher is None:
            return 1.0
        return 0.0 if set(origins(batch)) == {"exemplar"} else self.alpha
