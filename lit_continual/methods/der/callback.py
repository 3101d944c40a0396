"""DER++: exemplars are trained on their labels and on the old network's logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.old_network.logits import origins
from lit_continual.methods.bases.old_network.taught_term import TaughtTerm
from lit_continual.methods.der.loss import dark_experience_loss


class DarkExperienceReplay(TaughtTerm):
    r"""Rehearse exemplars with their labels and with the logits that the old network has for them (DER++).

    .. math:: L = L_c(x, y) \text{ for a new sample}, \qquad
        L = \alpha \lVert z(x') - z' \rVert^2 + \beta L_c(x', y') \text{ for an exemplar}

    :math:`L_c` is the module's own loss; the norm is :func:`~lit_continual.functional.dark_experience_loss`. What a
    sample is stands in ``batch["origin"]``, a list of ``"new"`` and ``"exemplar"``, as a memory gives it; without a
    memory there is no term. In place of stored logits, which take more room than the image, the network that the last
    fit left is asked about the exemplar as it comes, augmented. About an exemplar of the last experience that is not
    augmented it answers what would have been stored then; about an older one, what the last fit has made of that.
    Classes that have come since have no channel in it and are left out. One draw of exemplars serves both terms, where
    the paper draws twice.

    Args:
        alpha: :math:`\alpha`, weight of the distance of logits, not negative; 0 is experience replay with
            :math:`\beta`.
        beta: :math:`\beta`, weight of the module's own loss on exemplars, not negative. Unless it is 1, a batch must be
            of one origin.
        teacher: The old network, as in :class:`~lit_continual.callbacks.Distillation`: ``None`` for what the last fit
            left, ``"start"``, the path of a checkpoint, or the old module itself.
        logits: How to get ``(B, C, *spatial)`` logits, called with a network and the batch. ``None`` takes what the
            module's own ``forward`` returned in ``training_step``.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If a weight is negative or infinite, or the teacher cannot be read.
        MisconfigurationException: If the memory mixes batches, or one is mixed, and :math:`\beta` is not 1; in the
            first step, if the two networks cannot be asked alike.

    Logs ``train/<name>``, the weighted distance, at every step with exemplars and a teacher.

    References:
        Buzzega, Boschini, Porrello, Abati and Calderara. Dark experience for general continual learning: a strong,
        simple baseline. NeurIPS 2020, eq. 6.

    Example:
        >>> callback = DarkExperienceReplay(0.1, 0.5)
    """

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 0.5,
        teacher: str | Path | nn.Module | None = None,
        logits: Callable[..., Any] | None = None,
        name: str = "der",
    ) -> None:
        if not all(0 <= weight < float("inf") for weight in (alpha, beta)):
            raise ValueError(f"`alpha` and `beta` must be 0 or more and finite, got {alpha} and {beta}.")
        super().__init__(teacher, logits, name)
        self.alpha, self.beta = alpha, beta
        self._replayed = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        memory = getattr(getattr(trainer, "datamodule", None), "exemplars", None)
        if stage == "fit" and getattr(memory, "batches", "pure") == "mixed":
            self._require_one_loss(pl_module)  # in the first fit of a stream, which has no exemplars yet

    def _require_one_loss(self, pl_module: LightningModule) -> None:
        if self.beta != 1:
            raise MisconfigurationException(
                f"`{type(pl_module).__name__}` has one loss for a batch of new samples and exemplars, in which the"
                f" latter cannot have the weight `beta={self.beta}`. Set `batches: pure` in the memory, or `beta=1`."
            )

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._replayed = False

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        found = set(origins(batch))
        self._replayed |= "exemplar" in found
        if found == {"new", "exemplar"}:
            self._require_one_loss(pl_module)

    @override
    def compute(self, pl_module: LightningModule, batch: Any, outputs: Any) -> Tensor | None:
        self.see_channels(pl_module, outputs)
        exemplars = [one == "exemplar" for one in origins(batch)]
        if self._teacher is None or self.alpha == 0 or not any(exemplars):
            return None
        student, ask = self.question(pl_module, batch, outputs)
        losses = dark_experience_loss(student, self.ask(ask))
        return self.alpha * (losses * losses.new_tensor(exemplars)).mean()

    @override
    def share_of_loss(self, batch: Any) -> float:
        return self.beta if set(origins(batch)) == {"exemplar"} else 1.0

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._teacher is not None and not self._replayed:
            rank_zero_warn(
                f"`{type(self).__name__}` met no exemplar in this epoch, which trained plainly. Give the stream a"
                " `memory`, or batches an `origin` of 'new' and 'exemplar'."
            )
