"""One softmax whose classes become more."""

from collections.abc import Iterator, Sequence
from math import log1p
from typing import Any

import torch
from torch import Tensor, nn

from lit_continual.segmentation.class_names import require_new_names
from lit_continual.segmentation.label_map import largest
from lit_continual.segmentation.merged_background import merged_background


class SharedHead(nn.Module):
    r"""One softmax on shared features, with one background, to which classes are added at any time.

    What is no known class is background, so classes that come later were background before. Each group of classes is
    a 1 x 1 convolution; the first has the background too, and no old parameter changes when the head grows. A new
    class begins as a part of the background,

    .. math:: w_c = w_b, \qquad z_c = z_b \leftarrow z_b - \log(n + 1)

    with :math:`n` new classes, so that the probabilities of the old classes stay as they were and those of background
    and new classes add up to what the background had. The summand is a constant of the layer, not learnt and not
    in the bias of the background.

    Args:
        features: Channels of the body's output.
        spatial_dims: 2 or 3.
        classes: The class names of each group to begin with, without the background.

    References:
        Cermelli et al. Modeling the Background for Incremental Learning in Semantic Segmentation. CVPR 2020, eq. 10
        and 11.

    Example:
        >>> head = SharedHead(16, spatial_dims=2, classes=[["humerus"]])
        >>> head.grow(["scapula", "clavicle"])
        >>> head.channels
        [[0, 1, 2, 3]]
        >>> head(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 4, 8, 8])
    """

    def __init__(self, features: int, spatial_dims: int, classes: Sequence[Sequence[str]] = ()) -> None:
        super().__init__()
        self.features, self.spatial_dims = features, spatial_dims
        #: The class names of each group, in the order in which they were added.
        self.classes: list[list[str]] = []
        self.layers = nn.ModuleList()
        for names in classes:
            self.grow(names)

    @property
    def names(self) -> list[str]:
        """All class names; that of channel 1 is the first."""
        return [name for group in self.classes for name in group]

    @property
    def channels(self) -> list[list[int]]:
        """Output channels of the only softmax: the background, then the classes; none before there are classes."""
        return [list(range(len(self.names) + 1))] if self.classes else []

    @property
    def offset(self) -> float:
        """What the background has given away to groups that were added."""
        return sum(log1p(len(group)) for group in self.classes[1:])

    def grow(self, classes: Sequence[str]) -> None:
        """Add channels for ``classes``, on the device of the others and as parts of the background.

        Raises:
            ValueError: See :func:`.require_new_names`.
        """
        require_new_names(classes, self.names)
        convolution = nn.Conv2d if self.spatial_dims == 2 else nn.Conv3d
        layer = convolution(self.features, len(classes) + (not self.classes), kernel_size=1)
        self.classes.append(list(classes))
        if self.layers:
            self._begin_as_background(layer)
        self.layers.append(layer)

    @torch.no_grad()
    def _begin_as_background(self, layer: nn.Module) -> None:
        first: Any = self.layers[0]
        new: Any = layer.to(first.weight.device, first.weight.dtype)
        new.weight.copy_(first.weight[:1].expand_as(new.weight))
        new.bias.copy_((first.bias[:1] - self.offset).expand_as(new.bias))

    def shrink(self, channels: int) -> None:
        """Take back what was added beyond the first ``channels``: outputs are again what they were before, bit for bit.

        Raises:
            ValueError: If the head never had that many channels.
        """
        sizes = [1 + sum(map(len, self.classes[: n + 1])) for n in range(len(self.classes))]
        if channels not in sizes:
            raise ValueError(f"The head has had {sizes} channels, not {channels}. Give one of these.")
        kept = sizes.index(channels) + 1
        self.classes, self.layers = self.classes[:kept], self.layers[:kept]

    def missing(self, classes: Sequence[str]) -> list[str]:
        """Return those of ``classes`` that have no channel yet."""
        return [name for name in classes if name not in self.names]

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, F, *spatial)`` to the logits of background and classes, ``(B, C, *spatial)``."""
        first, *added = [layer(features) for layer in self.layers]
        return torch.cat([first[:, :1] - self.offset, first[:, 1:], *added], 1) if added else first

    def masks(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)`` to a boolean mask of each class where it wins, ``(B, K, *spatial)``."""
        winner = largest(logits)[:, None]
        return torch.cat([winner == c for c in range(1, logits.shape[1])], 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)`` to the probability of each class, ``(B, K, *spatial)``."""
        return logits.softmax(1)[:, 1:]

    def labels(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)`` to a label map ``(B, *spatial)``: 0, or a class counted from 1."""
        return largest(logits)

    def targets(self, label: Tensor, names: Sequence[str]) -> Tensor:
        """Map labels whose values 1, 2, … stand for ``names`` to channels; what is not named is background."""
        known = self.names
        found: Any = sum((label == v) * (known.index(n) + 1) for v, n in enumerate(names, start=1) if n in known)
        return found if isinstance(found, Tensor) else torch.zeros_like(label, dtype=torch.long)

    def terms(self, logits: Tensor, label: Tensor, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor, Tensor]]:
        """Classes, logits and label map of the loss on samples that reveal ``names``: the labels as they are."""
        yield self.names, logits, self.targets(label, names)

    def unbiased_terms(
        self, logits: Tensor, label: Tensor, names: Sequence[str]
    ) -> Iterator[tuple[list[str], Tensor, Tensor]]:
        """The same where what is not among ``names`` may be anywhere in the background, and is summed up with it."""
        hidden = [c for c, name in enumerate(self.names, start=1) if name not in names]
        left = [name for name in self.names if name in names]
        target: Any = sum((label == names.index(name) + 1) * (c + 1) for c, name in enumerate(left))
        if left:
            yield left, merged_background(logits, hidden), target
