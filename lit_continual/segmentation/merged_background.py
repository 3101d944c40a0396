"""Logits of a softmax whose background holds other classes too."""

from collections.abc import Collection

import torch
from torch import Tensor


def merged_background(logits: Tensor, hidden: Collection[int]) -> Tensor:
    r"""Let the background of a softmax take in other classes: the probability of the result is the sum of theirs.

    .. math:: \tilde z_b = \log \sum_{c \in b \cup h} e^{z_c}

    Args:
        logits: :math:`z`, ``(B, C, *spatial)``, with the background in channel 0.
        hidden: :math:`h`, the channels that become part of the background.

    Returns:
        ``(B, C - len(hidden), *spatial)``: the background, then the channels that are left, in their order.

    References:
        Cermelli et al. Modeling the Background for Incremental Learning in Semantic Segmentation. CVPR 2020, eq. 5 and
        9, in logits.

    Example:
        >>> merged_background(torch.zeros(1, 4, 1), hidden=[1, 2]).softmax(1).flatten()
        tensor([0.7500, 0.2500])
    """
    left = [c for c in range(1, logits.shape[1]) if c not in hidden]
    background = logits[:, [0, *sorted(hidden)]].logsumexp(1, keepdim=True) if hidden else logits[:, :1]
    return torch.cat([background, logits[:, left]], 1)
