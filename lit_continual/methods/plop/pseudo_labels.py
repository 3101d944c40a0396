"""Labels of the background that the old network is certain of."""

from typing import NamedTuple

import torch
from torch import Tensor

from lit_continual.methods.bases.fit.precision import full_precision

#: Steps in which the entropy is counted, from 0 to its maximum.
BINS = 1000


class PseudoLabels(NamedTuple):
    """Labels with certain answers of the old network in the background."""

    #: Channel of each voxel, ``(B, *spatial)``; 0 where ``ignored``.
    target: Tensor
    #: Background that the old network is not certain of, ``(B, *spatial)``.
    ignored: Tensor
    #: Share of the background that it is certain of, ``(B,)``; 1 where there is none.
    certain: Tensor


def relative_entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the entropy :math:`u / \log K` of each voxel, in [0, 1], and the channel that wins, ``(B, *spatial)``."""
    log_p = full_precision(logits).log_softmax(1)
    most = torch.log(log_p.new_tensor(float(max(logits.shape[1], 2))))
    return -(log_p.exp() * log_p).sum(1) / most, logits.argmax(1)


def count_entropies(logits: Tensor, background: Tensor) -> Tensor:
    """Count background voxels by the channel that wins and by their entropy, ``(K, BINS)``."""
    entropy, winner = (values[background] for values in relative_entropy(logits))
    place = winner * BINS + (entropy * BINS).long().clamp(0, BINS - 1)
    return torch.bincount(place, minlength=logits.shape[1] * BINS).view(-1, BINS)


def median_thresholds(counts: Tensor, least: float) -> Tensor:
    r"""Return the median entropy :math:`\tau_c` of each class, not less than ``least``.

    Args:
        counts: Of :func:`count_entropies`, over all data.
        least: Threshold of a class whose median is less, or which wins nowhere.

    Returns:
        ``(K,)``, exact to the width of a bin.

    Example:
        >>> counts = torch.zeros(2, 1000, dtype=torch.long)
        >>> counts[0, 250] = 10
        >>> median_thresholds(counts, least=0.001)
        tensor([0.2505, 0.0010])
    """
    total, running = counts.sum(1, keepdim=True), counts.cumsum(1)
    place = (2 * running < total).sum(1, keepdim=True).clamp(max=counts.shape[1] - 1)
    inside = counts.gather(1, place)
    share = (total / 2 - (running.gather(1, place) - inside)) / inside.clamp(min=1)
    medians = torch.where(total > 0, (place + share) / counts.shape[1], 0.0).squeeze(1)
    return medians.float().clamp(min=least)


def pseudo_labels(target: Tensor, teacher_logits: Tensor, thresholds: Tensor) -> PseudoLabels:
    r"""Give the background the old network's answer where its entropy is below the median of that class.

    .. math:: \tilde y = k \text{ if } y = b \text{ and } \frac{u}{\log K} < \tau_k, \; k = \operatorname{argmax}_c p_c

    Args:
        target: :math:`y`, the channel of each voxel, ``(B, *spatial)``; 0 is background.
        teacher_logits: ``(B, K, *spatial)``.
        thresholds: :math:`\tau`, ``(K,)``.

    References:
        Douillard et al. PLOP. CVPR 2021, eq. 8 to 10.

    Example:
        >>> logits = torch.tensor([[[9.0, 0.1, 9.0], [0.0, 0.0, 0.0]]])
        >>> pseudo_labels(torch.tensor([[0, 0, 2]]), logits, torch.tensor([0.5, 0.5]))
        PseudoLabels(target=tensor([[0, 0, 2]]), ignored=tensor([[False,  True, False]]), certain=tensor([0.5000]))
    """
    entropy, winner = relative_entropy(teacher_logits)
    background, valid = target == 0, entropy < thresholds.to(entropy)[winner]
    count = background.flatten(1).sum(1)
    certain = (background & valid).flatten(1).sum(1) / count.clamp(min=1)
    return PseudoLabels(
        torch.where(background & valid, winner, target),
        background & ~valid,
        torch.where(count > 0, certain, 1.0),
    )
