"""The cross-entropy of a head with weights from the class ratio of its training data."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from lit_continual.segmentation.class_ratio_weights import class_ratio_weights


class ClassRatioCrossEntropy(nn.Module):
    """Cross-entropy in which every class of a head, its background included, has the same total weight.

    The weights are those of :func:`~lit_continual.functional.class_ratio_weights` over the training volumes that reveal
    the classes of the head. They are measured anew when a fit starts, for each head on its own.

    Args:
        power: Of the inverse class ratio; 0.5 for organs of a few voxels, which 1 draws much too large.

    Raises:
        ValueError: If ``power`` is not in [0, 1].

    References:
        Sagie, Greenspan and Goldberger. Transfer Learning via Parameter Regularization for Medical Image
        Segmentation. Section II.A.

    Example:
        >>> import torch
        >>> loss = ClassRatioCrossEntropy()
        >>> loss.measure([(torch.tensor([0, 0, 0, 1]), ["lung"])], [["lung"]])
        >>> loss.of(["lung"])
        tensor([0.6667, 2.0000])
    """

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        if not 0 <= power <= 1:
            raise ValueError(f"`power` must be from 0 to 1, got {power}.")
        self.power = power
        self.weights: dict[tuple[str, ...], Tensor] = {}

    def measure(self, annotations: Sequence[tuple[Tensor, Sequence[str]]], heads: Sequence[Sequence[str]]) -> None:
        """Take the weights from label maps, each with the names that its values 1, 2, … stand for."""
        for head in heads:
            revealed = [(label, names) for label, names in annotations if set(head) <= set(names)]
            if revealed:
                self.weights[tuple(head)] = class_ratio_weights(
                    (_of_head(head, *pair) for pair in revealed), len(head) + 1, self.power
                )

    def of(self, head: Sequence[str]) -> Tensor:
        """Weights of a head: its background, then its classes.

        Raises:
            MisconfigurationException: If they have not been measured.
        """
        if tuple(head) not in self.weights:
            raise MisconfigurationException(
                f"`ClassRatioCrossEntropy` has seen no label map of {', '.join(head)}. Train on a data module with"
                " `annotations()`, such as `SegmentationDataModule`, or give `torch.nn.CrossEntropyLoss` weights."
            )
        return self.weights[tuple(head)]

    @override
    def forward(self, logits: Tensor, label: Tensor, head: Sequence[str]) -> Tensor:
        """Map logits ``(B, K + 1, *spatial)`` and label maps ``(B, 1, *spatial)`` of a head to the weighted mean."""
        exact = _exact(logits)
        return cross_entropy(exact, label[:, 0].long(), self.of(head).to(exact))


def _of_head(head: Sequence[str], label: Tensor, names: Sequence[str]) -> Tensor:
    values = torch.zeros(len(names) + 1, dtype=torch.long)
    for c, name in enumerate(head, start=1):
        values[names.index(name) + 1] = c
    return values[label.long()]


def head_loss(loss: nn.Module, head: Sequence[str], logits: Tensor, label: Tensor) -> Tensor:
    """Loss of one head, in float32 at least; only one that weighs classes is given the head."""
    given = (_exact(logits), label)
    found: Tensor = loss(*given, head) if isinstance(loss, ClassRatioCrossEntropy) else loss(*given)
    return found


def _exact(logits: Tensor) -> Tensor:
    """Logits in which sums over voxels, and weights of small classes, are neither infinite nor coarse."""
    return logits.float() if logits.dtype in (torch.half, torch.bfloat16) else logits


def measure(loss: nn.Module, data: Any, heads: Sequence[Sequence[str]]) -> None:
    """Let a loss that weighs classes see the annotations of a data module, if it has any to show."""
    if isinstance(loss, ClassRatioCrossEntropy) and hasattr(data, "annotations"):
        loss.measure(data.annotations(), heads)
