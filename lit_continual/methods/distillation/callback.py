"""Distillation: the old network teaches the new one its answers (LwfSeg)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lit_continual.methods.distillation.loss import distillation_loss
from lit_continual.methods.distillation.teacher import Teacher
from lit_continual.methods.loss_term import LossTerm


class Distillation(LossTerm):
    r"""Keep the old classes by training their outputs towards those of the old network.

    .. math:: L = \alpha L_c + (1 - \alpha) L_d \text{ for a new sample}, \qquad L = L_d \text{ for an exemplar}

    :math:`L_c` is the module's own loss, which leaves exemplars out, and :math:`L_d` is
    :func:`~lit_continual.functional.distillation_loss` on the channels that the old network has. Samples are told
    apart by ``batch["origin"]``, a list of ``"new"`` and ``"exemplar"``; without it all are new.

    Args:
        alpha: :math:`\alpha`, share of the module's own loss, in [0, 1].
        temperature: :math:`T`, divides the logits of both networks.
        targets: ``"online"`` asks the teacher about each augmented batch; ``"cached"`` asks once, about the training
            images without augmentation, and sends its answers through the spatial augmentation with the image. The
            latter costs no forward pass but needs a data module with ``cache_targets(key, predict)``.
        teacher: The old network: ``None`` for what the last fit left (the first fit then trains plainly), ``"start"``
            for the weights at the start of this fit, or the path of a Lightning checkpoint of the module's class.
        heads: Channels of each softmax head, or ``"sigmoid"`` for independent classes. ``None`` takes
            ``pl_module.head_channels`` where the module has them, else one softmax over all channels.
        logits: How to get ``(B, C, *spatial)`` logits: called with the student or the teacher, and the batch. ``None``
            takes ``outputs["logits"]`` of the training step, or else calls the module on the images of the batch.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If an argument is out of range, or the teacher cannot be read.
        MisconfigurationException: If targets are to be cached and the data module cannot.

    Logs ``train/<name>``, the weighted :math:`L_d`, at every step with a teacher.

    References:
        Ozdemir, Fuernstahl and Goksel. Learn the new, keep the old. MICCAI 2018, eq. 1 and 2.
        Li and Hoiem. Learning without Forgetting. ECCV 2016.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[Distillation(alpha=0.5)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        alpha: float = 0.5,
        temperature: float = 1.0,
        targets: Literal["online", "cached"] = "online",
        teacher: str | Path | None = None,
        heads: list[list[int]] | Literal["sigmoid"] | None = None,
        logits: Callable[[LightningModule, Any], Tensor] | None = None,
        name: str = "distillation",
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"`alpha` must be in [0, 1], got {alpha}.")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        if targets not in ("online", "cached"):
            raise ValueError(f"`targets` must be 'online' or 'cached', got {targets!r}.")
        self.alpha, self.temperature, self.targets, self.name = alpha, temperature, targets, name
        self.teacher, self.heads, self.logits = teacher, heads, logits
        self._fitted = False  # whether a fit has ended, so that there is an old network
        self._channels: int | None = None  # of its outputs; None for all
        self._resumed = ""  # file of the teacher of a checkpoint that was written during fit
        self._seen: int | None = None  # channels of the network in training
        self._teacher: Teacher | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.teacher == "start":  # The module's own setup, where heads grow, comes after this one.
            self._channels = self._count(pl_module, None)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self._resumed:
            self._teacher = Teacher.restore(self._resumed, trainer, pl_module)
        elif self.teacher not in (None, "start"):
            self._teacher = Teacher.from_checkpoint(str(self.teacher), pl_module)
        elif self.teacher == "start" or self._fitted:
            self._teacher = Teacher.snapshot(pl_module)
        if self._teacher is not None and self.targets == "cached":
            self._cache(trainer)

    def _cache(self, trainer: Trainer) -> None:
        cache = getattr(getattr(trainer, "datamodule", None), "cache_targets", None)
        if cache is None:
            raise MisconfigurationException(
                "`Distillation(targets='cached')` needs a data module with `cache_targets(key, predict)`, such as"
                " `SegmentationDataModule`. Use targets='online' with this data."
            )
        cache(self.name, lambda image: self._ask({"image": image}))

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hide the classes of exemplars: with a teacher, they are trained on its answers alone (eq. 1)."""
        if self._teacher is not None and isinstance(batch, dict) and "origin" in batch and "classes" in batch:
            pairs = zip(batch["classes"], batch["origin"], strict=True)
            batch["classes"] = [type(names)() if origin == "exemplar" else names for names, origin in pairs]

    @override
    def compute(self, pl_module: LightningModule, batch: Any, outputs: Any) -> Tensor | None:
        if self._teacher is None:
            return None
        cached = self.targets == "cached" and isinstance(batch, Mapping)
        teacher = batch[self.name] if cached else self._ask(batch)
        student = self._student(pl_module, batch, outputs)[:, : teacher.shape[1]]
        losses = distillation_loss(student, teacher, self._heads(teacher), self.temperature, "per_sample")
        origin = batch.get("origin") if isinstance(batch, Mapping) else None
        if origin is None:
            return (1 - self.alpha) * losses.mean()
        weights = [1.0 if o == "exemplar" else 1 - self.alpha for o in origin]
        return (losses * losses.new_tensor(weights)).mean()

    @override
    def share_of_loss(self, batch: Any) -> float:
        return 1.0 if self._teacher is None else self.alpha

    def _student(self, pl_module: LightningModule, batch: Any, outputs: Any) -> Tensor:
        if self.logits is None and isinstance(outputs, Mapping) and "logits" in outputs:
            logits: Tensor = outputs["logits"]
            return logits
        return self.logits(pl_module, batch) if self.logits else pl_module(_images(batch))

    @torch.no_grad()
    def _ask(self, batch: Any) -> Tensor:
        assert self._teacher is not None
        module = self._teacher.module
        logits: Tensor = self.logits(module, batch) if self.logits else module(_images(batch))
        return logits[:, : self._channels]

    def _heads(self, teacher: Tensor) -> Sequence[Sequence[int]] | None:
        if self.heads is not None:
            return None if isinstance(self.heads, str) else self.heads
        channels = teacher.shape[1]
        heads = getattr(self._teacher.module, "head_channels", None) if self._teacher else None
        if heads is None:
            return [list(range(channels))] if channels > 1 else None
        return [head for head in heads if max(head) < channels]

    @staticmethod
    def _count(pl_module: LightningModule, outputs: Any) -> int | None:
        if (heads := getattr(pl_module, "head_channels", None)) is not None:
            return sum(map(len, heads))
        return outputs["logits"].shape[1] if isinstance(outputs, Mapping) and "logits" in outputs else None

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._teacher is not None:
            self._teacher.save(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen = self._count(pl_module, outputs)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._channels = self._count(pl_module, None) or self._seen or self._channels  # also after a fit of no epochs
        self._fitted, self._resumed, self._teacher = True, "", None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._teacher = None

    @override
    def state_dict(self) -> dict[str, Any]:
        file_name = self._teacher.file_name if self._teacher is not None and self.teacher in (None, "start") else ""
        return {"fitted": self._fitted, "channels": self._channels, "teacher": file_name}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._fitted, self._channels = state_dict["fitted"], state_dict["channels"]
        self._resumed = state_dict["teacher"]


def _images(batch: Any) -> Tensor:
    if isinstance(batch, Mapping):
        return batch["image"]  # type: ignore[no-any-return]
    return batch[0] if isinstance(batch, Sequence) else batch  # type: ignore[no-any-return]
