"""Knowledge distillation for segmentation with classes that are not mutually exclusive."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lit_continual.methods.bases.fit.precision import full_precision
from lit_continual.methods.bases.old_network.soft_cross_entropy import soft_cross_entropy


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    heads: Sequence[Sequence[int]] | None = None,
    temperature: float = 1.0,
    reduction: Literal["per_pixel_mean", "sum", "per_sample"] = "per_pixel_mean",
) -> Tensor:
    r"""Cross-entropy of the student under the teacher's probabilities, summed over the old classes.

    .. math:: L_d = -\sum_{j} p_j \log y_j, \qquad p = \sigma(z_\text{teacher} / T), \; y = \sigma(z_\text{student} / T)

    The sum runs over the classes of every old head *and its background*: over the channels of a softmax head, or
    over :math:`(p, 1 - p)` of an independent sigmoid. Ozdemir et al. (2018) print eq. 2 without the minus. There is no
    factor :math:`T^2`. The gradient, :math:`(y - p) / T`, is exactly zero where the student equals the teacher.

    Args:
        student_logits: Logits of the network in training, ``(B, C, *spatial)``, or ``(B, C)``.
        teacher_logits: Logits of the old network, of the same shape. No gradient flows to them.
        heads: Channels of each softmax head, such as ``[[0, 1], [2, 3]]``; ``None`` for independent sigmoids.
        temperature: :math:`T`, positive. Divides both logits.
        reduction: ``"per_pixel_mean"`` sums over classes and averages over pixels and batch, so that the weight of the
            term means the same at any image size; ``"sum"`` sums over all; ``"per_sample"`` averages over pixels only.

    Returns:
        A scalar, or ``(B,)`` for ``"per_sample"``; at least in single precision.

    Raises:
        ValueError: If the shapes differ, a head names a channel that is not there, or an option is unknown.

    References:
        Ozdemir, Fuernstahl and Goksel. Learn the new, keep the old: extending pretrained models with new anatomy and
        images. MICCAI 2018, eq. 2.

    Example:
        >>> student, teacher = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
        >>> distillation_loss(student, teacher, heads=[[0, 1]])
        tensor(0.6931)
    """
    student, teacher = _tempered(student_logits, teacher_logits, heads, temperature)
    if heads is None:
        pixels = binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none").sum(1)
    else:
        pixels = torch.stack([soft_cross_entropy(student[:, h], teacher[:, h]) for h in heads]).sum(0)
    if reduction == "sum":
        return pixels.sum()
    if reduction == "per_sample":
        return pixels.reshape(len(pixels), -1).mean(1)
    if reduction == "per_pixel_mean":
        return pixels.mean()
    raise ValueError(f"`reduction` must be 'per_pixel_mean', 'sum' or 'per_sample', got {reduction!r}.")


def dice_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    heads: Sequence[Sequence[int]] | None = None,
    temperature: float = 1.0,
    smooth: float = 1.0,
    reduction: Literal["mean", "per_sample"] = "mean",
) -> Tensor:
    r"""Dice distance between the probabilities of student and teacher, averaged over the old classes.

    .. math:: L = \frac{1}{K} \sum_{k=1}^{K} \left( 1 - \frac{2 \sum s_k t_k + \epsilon}
        {\sum s_k^2 + \sum t_k^2 + \epsilon} \right), \qquad s = \sigma(z_\text{student} / T), \;
        t = \sigma(z_\text{teacher} / T)

    The inner sums run over the pixels of one sample, so that a class weighs the same however small it is; in
    :func:`distillation_loss`, a mean over pixels, it weighs as much as it is large. With the squares the minimum lies
    at :math:`s = t`, where value and gradient are exactly zero; without them it lies at answers of 0 and 1.

    Args:
        student_logits: Logits of the network in training, ``(B, C, *spatial)``.
        teacher_logits: Logits of the old network, of the same shape. No gradient flows to them.
        heads: Channels of each softmax head, its background first, such as ``[[0, 1], [2, 3]]``. The backgrounds are no
            classes. ``None`` for independent sigmoids, each of them a class.
        temperature: :math:`T`, positive. Divides both logits.
        smooth: :math:`\epsilon`, positive: a class that neither network sees in a sample adds nothing.
        reduction: ``"mean"`` averages over the samples; ``"per_sample"`` leaves them apart.

    Returns:
        A scalar, or ``(B,)`` for ``"per_sample"``, from 0 to 1; at least in single precision.

    Raises:
        ValueError: If the shapes differ, a head names a channel that is not there, or an option is out of range.

    References:
        The Dice loss with squares is of Milletari, Navab and Ahmadi. V-Net. 3DV 2016, eq. 3.

    Example:
        >>> student, teacher = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
        >>> dice_distillation_loss(student, teacher, heads=[[0, 1]])
        tensor(0.)
    """
    if smooth <= 0:
        raise ValueError(f"`smooth` must be positive, got {smooth}.")
    if reduction not in ("mean", "per_sample"):
        raise ValueError(f"`reduction` must be 'mean' or 'per_sample', got {reduction!r}.")
    student, teacher = _tempered(student_logits, teacher_logits, heads, temperature)
    s, t = _class_probabilities(student, heads).flatten(2), _class_probabilities(teacher, heads).flatten(2)
    # The same fraction in the form whose gradient rounding leaves at zero where both agree.
    distances = (s - t).square().sum(2) / (s.square().sum(2) + t.square().sum(2) + smooth)
    losses = distances.mean(1)
    return losses.mean() if reduction == "mean" else losses


def _tempered(
    student: Tensor, teacher: Tensor, heads: Sequence[Sequence[int]] | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Check two logits and divide them by the temperature."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"`student_logits` have shape {tuple(student.shape)} and `teacher_logits` {tuple(teacher.shape)}: pass the"
            " channels of the old classes, on one grid."
        )
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    if heads is not None:
        _require_channels(heads, student.shape[1])
    student = full_precision(student)
    return student / temperature, teacher.detach().to(student.dtype) / temperature


def _class_probabilities(logits: Tensor, heads: Sequence[Sequence[int]] | None) -> Tensor:
    """The probability of each class, ``(B, K, *spatial)``, without the backgrounds."""
    if heads is None:
        return logits.sigmoid()
    return torch.cat([logits[:, head].softmax(1)[:, 1:] for head in heads], 1)


def _require_channels(heads: Sequence[Sequence[int]], channels: int) -> None:
    for head in heads:
        if len(head) < 2 or not all(0 <= c < channels for c in head):
            raise ValueError(
                f"`heads` has {list(head)}, but a softmax head needs at least two of the channels 0 to {channels - 1}:"
                " its background and its classes."
            )
