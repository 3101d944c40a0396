"""The loss of all heads on samples that reveal different classes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lit_continual.segmentation.class_ratio_cross_entropy import head_loss
from lit_continual.segmentation.growing_heads import GrowingHeads


def loss_of_heads(
    loss: nn.Module, heads: GrowingHeads, logits: Tensor, label: Tensor, revealed: Sequence[tuple[str, ...]]
) -> Tensor:
    """Sum the losses of the heads, each over the samples that reveal its classes and by their share of the batch.

    Args:
        loss: Of one head, called with its logits and the label map of its classes.
        heads: The heads.
        logits: Of all heads, ``(B, C, *spatial)``.
        label: ``(B, 1, *spatial)``.
        revealed: What the label values 1, 2, … of each sample stand for.
    """
    total = logits[:0].sum()  # Every output is in the graph, as DDP asks; 0 * inf would be nan.
    for names in sorted(set(revealed) - {()}):
        rows = [i for i, mine in enumerate(revealed) if mine == names]
        whole = len(rows) == len(logits)
        outputs, labels = (logits, label) if whole else (logits[rows], label[rows])
        for head, channels in zip(heads.classes, heads.channels, strict=True):
            if set(head) <= set(names):
                target: Any = sum((labels == names.index(name) + 1) * (c + 1) for c, name in enumerate(head))
                total = total + len(rows) / len(logits) * head_loss(loss, head, outputs[:, channels], target)
    return total
