"""One label map of the answers of several heads."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor


def folded_logits(logits: Tensor, channels: Sequence[Sequence[int]]) -> Tensor:
    r"""Logits of one softmax over a background and the classes of all heads.

    .. math:: l'_0 = l_{b_1}, \qquad l'_c = l_c + (l_{b_1} - l_{b_h}) \quad\text{for a class } c \text{ of head } h

    with the background :math:`b_h` of each head. The log-odds of a class against the background are then those in its
    own head, and the logits of the first head are as they were, bit for bit.

    Args:
        logits: ``(B, C, *spatial)``.
        channels: Of each head: its background, then its classes.

    Returns:
        ``(B, 1 + K, *spatial)``.

    Example:
        >>> folded_logits(torch.tensor([[0.0, 2.0, 5.0, 6.0]]), [[0, 1], [2, 3]])
        tensor([[0., 2., 1.]])
    """
    return torch.stack(list(_folded(logits, channels)), 1)


def folded_winners(logits: Tensor, channels: Sequence[Sequence[int]]) -> Tensor:
    """Return the channel of the largest of :func:`folded_logits`, ``(B, *spatial)``, made one at a time.

    Example:
        >>> folded_winners(torch.tensor([[0.0, 2.0, 5.0, 6.0]]), [[0, 1], [2, 3]])
        tensor([1])
    """
    return _largest(_folded(logits, channels), sum(map(len, channels)))


def _folded(logits: Tensor, channels: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    background = logits[:, channels[0][0]]
    yield background
    for head in channels:
        more = background - logits[:, head[0]]
        yield from (logits[:, c] + more for c in head[1:])


def largest(values: Tensor) -> Tensor:
    """Return the channel of the largest of ``(B, C, *spatial)``, the first of several; faster than argmax.

    Example:
        >>> largest(torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]]))
        tensor([1, 0])
    """
    return _largest(iter(values.unbind(1)), values.shape[1])


def _largest(channels: Iterator[Tensor], count: int) -> Tensor:
    best = next(channels)
    small = torch.uint8 if count <= 2**8 else torch.int16  # which is written a class at a time
    found = torch.zeros_like(best, dtype=small)
    for k, channel in enumerate(channels, 1):
        found = torch.maximum(found, (channel > best).to(small) * k)  # the last that beat all before it
        best = torch.maximum(best, channel)
    return found.long()


def label_map(folded: Tensor, regions: Sequence[Collection[str]] = ()) -> Tensor:
    """Give each voxel to one class, or to the background.

    A class is found where its logit is above that of the background. Of classes that are found in a voxel, the one with
    the largest logit gets it, as in a softmax over all of them; of regions that lie in one another, the innermost.

    Args:
        folded: Logits of the background and the K classes, ``(B, 1 + K, *spatial)``; see :func:`folded_logits`.
        regions: The annotated classes of each of the K, where some may lie in others: a region lies in another if its
            classes are a part of the other's.

    Returns:
        ``(B, *spatial)``: 0, or the place of a class, counted from 1.

    Example:
        >>> voxels = torch.tensor([[0.0, -1.0, -1.0], [0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [0.0, 2.0, -1.0]])
        >>> label_map(voxels), label_map(voxels, ["ab", "b"])
        (tensor([0, 2, 1, 1]), tensor([0, 2, 2, 1]))
    """
    inside = [[i for i, inner in enumerate(regions, 1) if set(inner) < set(outer)] for outer in regions]
    if not any(inside):
        return largest(folded)
    found = folded > folded[:, :1]
    covered = [found[:, smaller].any(1) for smaller in inside]  # by a region that lies in this one
    return largest(torch.where(torch.stack([found[:, 0], *covered], 1), -torch.inf, folded))
