"""The loss of heads on samples that reveal different classes."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from lit_continual.segmentation.class_ratio_cross_entropy import head_loss

#: Of logits, a label map and the names of its values 1, 2, …: classes, logits and label map of each head's loss.
Terms = Callable[[Tensor, Tensor, Sequence[str]], Iterable[tuple[list[str], Tensor, Tensor]]]


def loss_of_heads(
    loss: nn.Module,
    terms: Terms,
    logits: Tensor,
    label: Tensor,
    revealed: Sequence[tuple[str, ...]],
    annotated: Tensor | None = None,
) -> Tensor:
    """Sum the losses of the heads, each over the samples that it learns from and by their share of the batch.

    Args:
        loss: Of one head, called with its logits and the label map of its classes.
        terms: What each head learns from samples that reveal the same classes, such as ``GrowingHeads.terms``.
        logits: Of all heads, ``(B, C, *spatial)``.
        label: ``(B, 1, *spatial)``.
        revealed: What the label values 1, 2, … of each sample stand for.
        annotated: Where the label is known, ``(B, 1, *spatial)``; ``None`` for everywhere. The annotated voxels of all
            samples that reveal the same classes are then one sample, ``(1, C, V)``, to the loss.
    """
    total = logits[:0].sum()  # Every output is in the graph, as DDP asks; 0 * inf would be nan.
    for names in sorted(set(revealed) - {()}):
        rows = [i for i, mine in enumerate(revealed) if mine == names]
        whole = len(rows) == len(logits)
        outputs, labels = (logits, label) if whole else (logits[rows], label[rows])
        if annotated is not None:
            known = annotated[rows, 0].bool()
            if not known.any():
                continue
            outputs, labels = (values.movedim(1, -1)[known].T[None] for values in (outputs, labels))
        for classes, mine, target in terms(outputs, labels, names):
            total = total + len(rows) / len(logits) * head_loss(loss, classes, mine, target)
    return total
