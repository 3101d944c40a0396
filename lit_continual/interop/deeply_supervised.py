"""A segmenter that learns at each resolution of its decoder."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lit_continual.data.batch import Batch
from lit_continual.interop.deep_supervision import (
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

    over the resolutions i of the decoder, with the weights of :func:`.supervision_weights`, or that at full resolution
    alone where ``hparams["deep_supervision"]`` is not set. A subclass may have other weights, and says what the heads
    see and learn from.

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
    def stages(self) -> Sequence[nn.Module]:
        """The parts of the body whose outputs the heads at lower resolutions see, from the lowest."""
        return list(self.body.decoder.stages)

    def shares(self, count: int) -> list[float]:
        """Weights of the losses of ``count`` resolutions, from the full one; they sum to 1."""
        return supervision_weights(count)

    def lower_loss(self, heads: GrowingHeads | SharedHead, features: Tensor, batch: Batch) -> Tensor:
        """The loss of heads at a lower resolution, of their features ``(B, F, *coarse)``."""
        annotated = batch.get("annotated")
        known = None if annotated is None else coarse(annotated, features)
        given = (coarse(batch["label"], features), self.names(batch), known)
        return loss_of_heads(self.loss, heads.terms, heads(features), *given)

    @property
    def _shares(self) -> list[float]:
        count = len(self.auxiliary) + 1
        return self.shares(count)[::-1] if self.hparams["deep_supervision"] else [0.0] * (count - 1) + [1.0]

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
            if self.auxiliary:
                self.hold_unsupervised()

    @override
    def _answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        *shares, full = self._shares
        stages = self.stages if any(shares) else ()
        with outputs_of({n: stages[n] for n, share in enumerate(shares) if share}) as features:
            logits = self(batch["image"])
        loss = full * self.batch_loss(logits, batch)
        for n, found in features.items():
            loss = loss + shares[n] * self.lower_loss(self.all_heads[n], found, batch)
        return logits, loss
