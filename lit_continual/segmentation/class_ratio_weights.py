"""Class weights from the class ratio."""

from collections.abc import Iterable

import torch
from torch import Tensor


def class_ratio_weights(labels: Iterable[Tensor], num_classes: int, power: float = 1.0) -> Tensor:
    r"""Weights of the classes for a cross-entropy, inverse to their share of the voxels.

    .. math:: w_c \propto n_c^{-\text{power}}

    with :math:`n_c` voxels in class :math:`c`, so that the mean weight of a voxel is 1. With a power of 1 every class
    has the same total weight. A class that never occurs gets 0.

    Args:
        labels: Label maps of integers, any shape; read once, one after another.
        num_classes: Number of classes, background included.
        power: 1 for the inverse; 0.5 for its root, with which organs of a few voxels are not drawn much too large; 0
            for equal weights.

    Returns:
        Weights, shape ``(num_classes,)``, for ``torch.nn.CrossEntropyLoss(weight=...)``.

    Raises:
        ValueError: If there are no voxels, a label is not in ``[0, num_classes)``, or ``power`` is not in [0, 1].

    References:
        Sagie, Greenspan and Goldberger. Transfer Learning via Parameter Regularization for Medical Image
        Segmentation. Section II.A: "the weights were calculated using the class ratio in the dataset"; the formula is
        ours.

    Example:
        >>> class_ratio_weights([torch.tensor([0, 0, 0]), torch.tensor([1])], num_classes=2)
        tensor([0.6667, 2.0000])
    """
    if not 0 <= power <= 1:
        raise ValueError(f"`power` must be from 0 to 1, got {power}.")
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for label in labels:
        flat = label.reshape(-1).long()
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < num_classes:
            raise ValueError(
                f"Labels must be from 0 to {num_classes - 1}, got {int(flat.min())} to {int(flat.max())}: raise"
                " `num_classes`, or map the labels."
            )
        counts += torch.bincount(flat, minlength=num_classes).cpu()
    present = counts > 0
    if not present.any():
        raise ValueError("`labels` hold no voxels, so there is no class ratio.")
    weights = torch.where(present, counts.clamp(min=1) ** -power, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()
