"""Cross-entropy and distillation where the background holds other classes too."""

import torch
from torch import Tensor

from lit_continual.methods.bases.fit.precision import full_precision
from lit_continual.methods.bases.old_network.answers import require_grown
from lit_continual.methods.bases.old_network.soft_cross_entropy import soft_cross_entropy
from lit_continual.segmentation.merged_background import merged_background


def unbiased_cross_entropy(logits: Tensor, target: Tensor, old_channels: int) -> Tensor:
    r"""Cross-entropy of labels whose background may be any old class.

    .. math:: \ell = -\log p_y, \qquad \tilde p_b = \sum_{c \in b \cup o} p_c \text{ in place of } p_b

    with :math:`p = \operatorname{softmax}(z)` over all channels and :math:`o` the old classes. Voxels of any other
    label, old or new, have the ordinary cross-entropy. Without old classes it is the ordinary one throughout.

    Args:
        logits: :math:`z`, ``(B, C, *spatial)``: background, old classes, new classes.
        target: :math:`y`, ``(B, *spatial)``, integers; 0 is background.
        old_channels: How many of the channels are background and old classes, from 1 to C.

    Returns:
        The mean over voxels and batch, a scalar; at least in single precision.

    Raises:
        ValueError: If ``old_channels`` is out of range or the shapes do not fit.

    References:
        Cermelli et al. Modeling the Background for Incremental Learning in Semantic Segmentation. CVPR 2020, eq. 4 and
        5. https://arxiv.org/abs/2002.00718

    Example:
        >>> logits, target = torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long)
        >>> unbiased_cross_entropy(logits, target, old_channels=2)  # log of 2 channels in 4
        tensor(0.6931)
    """
    if not 1 <= old_channels <= logits.shape[1]:
        raise ValueError(
            f"`old_channels` must be from 1, the background alone, to the {logits.shape[1]} channels of the logits,"
            f" got {old_channels}."
        )
    if target.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"`target` has shape {tuple(target.shape)}, and logits of {tuple(logits.shape)} need"
            f" {tuple(logits.shape[:1] + logits.shape[2:])}."
        )
    z = full_precision(logits)
    background = merged_background(z[:, :old_channels], range(1, old_channels))
    chosen = torch.cat([background, z[:, 1:]], 1).gather(1, target.long().unsqueeze(1)).squeeze(1)
    return (z.logsumexp(1) - chosen).mean()


def unbiased_distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    r"""Cross-entropy of the student under a teacher to whom new classes were background.

    .. math:: \ell = -\frac{1}{K} \sum_{c < K} p_c \log q_c, \qquad q_b = y_b + \sum_{n} y_n

    with the teacher's probabilities :math:`p` of its :math:`K` channels, the student's :math:`y` of all, and :math:`n`
    the channels that the teacher does not have. Where the probabilities :math:`q` are the teacher's the gradient is 0;
    without new classes it is ordinary distillation.

    Args:
        student_logits: ``(B, C, *spatial)``: the channels of the teacher, background first, then new classes.
        teacher_logits: ``(B, K, *spatial)``, K not more than C. No gradient flows to them.

    Returns:
        The mean over voxels and batch, divided by :math:`K`, a scalar; at least in single precision.

    Raises:
        ValueError: If the teacher has more channels, or another grid.

    References:
        Cermelli et al. Modeling the Background for Incremental Learning in Semantic Segmentation. CVPR 2020, eq. 8 and
        9. https://arxiv.org/abs/2002.00718

    Example:
        >>> unbiased_distillation_loss(torch.zeros(1, 4, 8, 8), torch.zeros(1, 2, 8, 8))
        tensor(0.4185)
    """
    require_grown(student_logits, teacher_logits)
    old = teacher_logits.shape[1]
    merged = merged_background(full_precision(student_logits), range(old, student_logits.shape[1]))
    return soft_cross_entropy(merged, full_precision(teacher_logits.detach()).to(merged.dtype)).mean() / old
