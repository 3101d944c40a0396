"""A segmenter that learns at each resolution of its decoder."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lit_continual.data.batch import Batch
from lit_continual.interop.nnunet.deep_supervision import (
    coarse,
    grow_from_background,
    outputs_of,
    supervision_weights,
)
from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.loss_of_heads import loss_of_heads
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.segmentation.shared_head import SharedHead


class DeeplySupervised(Segmenter):
    r"""Heads at lower resolutions, which grow with those at full resolution, and are trained beside them.

    Its logits are those at full resolution, in training too: no prediction and no method sees the others. The loss is

    .. math:: L = \sum_i w_i L_i

    over the resolutions i of ``body.decoder.stages``, with the weights of :func:`.supervision_weights`, or that at full
    resolution alone where ``hparams["deep_supervision"]`` is not set.

    Args:
        *args: See :class:`Segmenter`.
        **kwargs: See :class:`Segmenter`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Heads at lower resolutions, from the lowest.
        self.auxiliary = nn.ModuleList()

    @property
    def all_heads(self) -> list[GrowingHeads | SharedHead]:
        """The heads at each resolution, from the lowest to the full one."""
        return [*self.auxiliary, self.heads]

    @property
    def _shares(self) -> list[float]:
        """Weights of their losses, which sum to 1."""
        count = len(self.auxiliary) + 1
        return supervision_weights(count)[::-1] if self.hparams["deep_supervision"] else [0.0] * (count - 1) + [1.0]

    def hold_unsupervised(self) -> None:
        """Keep parameters that get no gradient from an optimizer, and from DDP, which would wait for one."""
        for heads, share in zip(self.all_heads, self._shares, strict=True):
            if not share:
                heads.requires_grad_(False)

    @override
    def grow(self, classes: Sequence[str]) -> None:
        new = self.heads.missing(classes)
        super().grow(classes)
        if new:
            for heads in self.all_heads[:-1]:
                grow_from_background(heads, new)
            self.hold_unsupervised()

    @override
    def _answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        *shares, full = self._shares
        with outputs_of({n: self.body.decoder.stages[n] for n, share in enumerate(shares) if share}) as features:
            logits = self(batch["image"])
        loss = full * self.batch_loss(logits, batch)
        annotated = batch.get("annotated")
        for n, found in features.items():
            heads, known = self.all_heads[n], None if annotated is None else coarse(annotated, found)
            given = (coarse(batch["label"], found), self.names(batch), known)
            loss = loss + shares[n] * loss_of_heads(self.loss, heads.terms, heads(found), *given)
        return logits, loss
