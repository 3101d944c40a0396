"""Output layers that are added one by one over a shared body."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_continual.segmentation.class_names import require_new_names
from lit_continual.segmentation.label_map import folded_winners, largest


class GrowingHeads(nn.Module):
    """Softmax heads on shared features, each with its own background, and more of them at any time.

    A head is a 1 x 1 convolution. Heads that are learnt *together* from scratch agree on the union of their classes
    first and leave it slowly; classes that are annotated together are better learnt under one head.

    Classes of different heads are not mutually exclusive. A new head leaves the outputs of the old ones as they are,
    bit for bit, since nothing of it is shared with them.

    Args:
        features: Channels of the body's output.
        spatial_dims: 2 or 3.
        classes: The class names of each head to begin with, without the backgrounds.

    Example:
        >>> heads = GrowingHeads(16, spatial_dims=2, classes=[["humerus"]])
        >>> heads.grow(["scapula", "clavicle"])
        >>> heads.channels
        [[0, 1], [2, 3, 4]]
        >>> heads(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 5, 8, 8])
    """

    def __init__(self, features: int, spatial_dims: int, classes: Sequence[Sequence[str]] = ()) -> None:
        super().__init__()
        self.features, self.spatial_dims = features, spatial_dims
        self.classes: list[list[str]] = []
        self.layers = nn.ModuleList()
        for names in classes:
            self.grow(names)

    def grow(self, classes: Sequence[str]) -> None:
        """Add a head for ``classes``, on the device of the others.

        Raises:
            ValueError: See :func:`.require_new_names`.
        """
        require_new_names(classes, [name for head in self.classes for name in head])
        convolution = nn.Conv2d if self.spatial_dims == 2 else nn.Conv3d
        layer = convolution(self.features, len(classes) + 1, kernel_size=1)
        if (old := next(self.layers.parameters(), None)) is not None:
            layer.to(old.device, old.dtype)
        self.layers.append(layer)
        self.classes.append(list(classes))

    def missing(self, classes: Sequence[str]) -> list[str]:
        """Return those of ``classes`` that have no head yet.

        Raises:
            ValueError: If the classes are only a part of an old head, which could not be trained on them.
        """
        for head in self.classes:
            if 0 < len(set(head) & set(classes)) < len(head):
                raise ValueError(
                    f"The head of {', '.join(head)} cannot be trained on data that reveal only {', '.join(classes)}."
                    " Reveal all of its classes, or give each class an experience of its own."
                )
        return [name for name in classes if all(name not in head for head in self.classes)]

    @property
    def channels(self) -> list[list[int]]:
        """Output channels of each head: its background, then its classes."""
        ends = torch.tensor([len(head) + 1 for head in self.classes], dtype=torch.long).cumsum(0).tolist()
        return [list(range(end - len(head) - 1, end)) for head, end in zip(self.classes, ends, strict=True)]

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, F, *spatial)`` to the logits of all heads, ``(B, C, *spatial)``."""
        return torch.cat([layer(features) for layer in self.layers], 1)

    def masks(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)`` to a boolean mask of each class that wins its head, ``(B, K, *spatial)``."""
        winners = [largest(logits[:, channels])[:, None] for channels in self.channels]
        sizes = [len(head) for head in self.classes]
        return torch.cat([w == c + 1 for w, n in zip(winners, sizes, strict=True) for c in range(n)], 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)`` to the probability of each class in its head, ``(B, K, *spatial)``."""
        return torch.cat([logits[:, channels].softmax(1)[:, 1:] for channels in self.channels], 1)

    def labels(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)`` to one label map ``(B, *spatial)``: 0, or a class counted from 1.

        Where several heads claim a voxel, it goes to the class with the largest log-odds against the background of its
        own head, as in one softmax over all classes; see :func:`~lit_continual.segmentation.label_map.folded_logits`.
        """
        return folded_winners(logits, self.channels)

    def terms(self, logits: Tensor, label: Tensor, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor, Tensor]]:
        """Classes, logits and label map of each head that learns from samples whose values 1, 2, … are ``names``."""
        for head, channels in zip(self.classes, self.channels, strict=True):
            if set(head) <= set(names):
                target: Any = sum((label == names.index(name) + 1) * (c + 1) for c, name in enumerate(head))
                yield head, logits[:, channels], target
