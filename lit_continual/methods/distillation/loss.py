"""Knowledge distillation for segmentation with classes that are not mutually exclusive."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lit_continual.methods.soft_cross_entropy import soft_cross_entropy


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
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"`student_logits` have shape {tuple(student_logits.shape)} and `teacher_logits`"
            f" {tuple(teacher_logits.shape)}: pass the channels of the old classes, on one grid."
        )
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    precision = torch.promote_types(student_logits.dtype, torch.float32)  # half precision loses log(1 - p)
    student = student_logits.to(precision) / temperature
    teacher = teacher_logits.detach().to(precision) / temperature
    if heads is None:
        pixels = binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none").sum(1)
    else:
        _require_channels(heads, student.shape[1])
        pixels = torch.stack([soft_cross_entropy(student[:, h], teacher[:, h]) for h in heads]).sum(0)
    if reduction == "sum":
        return pixels.sum()
    if reduction == "per_sample":
        return pixels.reshape(len(pixels), -1).mean(1)
    if reduction == "per_pixel_mean":
        return pixels.mean()
    raise ValueError(f"`reduction` must be 'per_pixel_mean', 'sum' or 'per_sample', got {reduction!r}.")


def _require_channels(heads: Sequence[Sequence[int]], channels: int) -> None:
    for head in heads:
        if len(head) < 2 or not all(0 <= c < channels for c in head):
            raise ValueError(
                f"`heads` has {list(head)}, but a softmax head needs at least two of the channels 0 to {channels - 1}:"
                " its background and its classes."
            )
