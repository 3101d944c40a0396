"""MiB: model the background, which holds old classes in the labels and new ones for the old network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.fit.precision import full_precision
from lit_continual.methods.bases.old_network.one_softmax import Target, require_one_softmax, shared_head, target_of
from lit_continual.methods.bases.old_network.taught_term import TaughtTerm
from lit_continual.methods.mib.loss import unbiased_cross_entropy, unbiased_distillation_loss
from lit_continual.segmentation.loss_of_heads import loss_of_heads


class MiB(TaughtTerm):
    r"""Learn new classes in one softmax by losses that know what the background may be.

    .. math:: L = L_u + \lambda L_{kd}

    From the second fit on the module's own loss has no weight, and :math:`L_u` takes its place:

    - A ``Segmenter`` with ``heads: shared`` keeps its own loss, by default Dice plus cross-entropy, on other logits:
      the known classes that a sample does not reveal are summed up with its background. The cross-entropy of it is
      :func:`~lit_continual.functional.unbiased_cross_entropy`. Exemplars are served too: they reveal old classes, and
      their background may hold the new.
    - Of any other module :math:`L_u` is that function of its logits and of ``batch["label"]`` or the second part of the
      batch, without the Dice term that its own loss may have.

    :math:`L_{kd}` is :func:`~lit_continual.functional.unbiased_distillation_loss`. The old channels are those that the
    teacher has. Without new classes both are the ordinary losses. How new classes best begin,
    :class:`~lit_continual.modules.SharedHead` says; a module that grows a layer of its own in that way changes the
    background too, and must be given its old self as ``teacher``.

    Args:
        loss_kd: :math:`\lambda`, not negative. 10 is what the authors' code takes, with some 15 old classes, by whose
            number :math:`L_{kd}` is divided; with one or two take about 1.
        teacher: See :class:`~lit_continual.callbacks.Distillation`.
        logits: See :class:`~lit_continual.callbacks.Distillation`.
        target: How to get the channel of each voxel, ``(B, *spatial)`` of integers with 0 for background: called with
            the module and the batch. A ``Segmenter`` needs none.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If ``loss_kd`` is out of range, or the teacher cannot be read.
        MisconfigurationException: If the module has several heads with a background each; in the first step, if the
            two networks cannot be asked alike or the labels are not found.

    Logs ``train/<name>``, :math:`L` as it is trained, and ``train/<name>_distillation``, :math:`\lambda L_{kd}`, at
    every step with a teacher. ``train/loss`` of a ``Segmenter`` stays the loss of the labels as they are.

    References:
        Cermelli et al. Modeling the Background for Incremental Learning in Semantic Segmentation. CVPR 2020, eq. 3 to
        11. https://arxiv.org/abs/2002.00718

    Example:
        >>> callback = MiB(loss_kd=10.0)
    """

    def __init__(
        self,
        loss_kd: float = 10.0,
        teacher: str | Path | nn.Module | None = None,
        logits: Callable[..., Any] | None = None,
        target: Target | None = None,
        name: str = "mib",
    ) -> None:
        if not 0 <= loss_kd < float("inf"):
            raise ValueError(f"`loss_kd` must be 0 or more and finite, got {loss_kd}.")
        super().__init__(teacher, logits, name)
        self.loss_kd, self.target = loss_kd, target

    @override
    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        super().rehearse(trainer, pl_module, data)
        require_one_softmax(pl_module, self)

    @override
    def share_of_loss(self, batch: Any) -> float:
        return 1.0 if self._teacher is None else 0.0

    @override
    def compute(self, pl_module: LightningModule, batch: Any, outputs: Any) -> Tensor | None:
        self.see_channels(pl_module, outputs)
        if self._teacher is None:
            return None
        student, ask = self.question(pl_module, batch, outputs)
        teacher = self.ask(ask)
        distilled = self.loss_kd * unbiased_distillation_loss(student, teacher)
        pl_module.log(f"train/{self.name}_distillation", distilled.detach())
        return self._unbiased(pl_module, batch, student, teacher.shape[1]) + distilled

    def _unbiased(self, pl_module: LightningModule, batch: Any, logits: Tensor, old_channels: int) -> Tensor:
        if self.target is None and (found := shared_head(pl_module)):
            segmenter, head = found
            label, names = batch["label"], segmenter.names(batch)
            return loss_of_heads(segmenter.loss, head.unbiased_terms, full_precision(logits), label, names)
        return unbiased_cross_entropy(logits, target_of(self.target, pl_module, batch, logits), old_channels)
