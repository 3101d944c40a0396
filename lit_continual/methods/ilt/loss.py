"""How far the features of two networks are apart, whatever their scale."""

from torch import Tensor
from torch.nn.functional import normalize

from lit_continual.methods.bases.fit.precision import full_precision


def normalised_feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared distance of feature vectors of length 1.

    .. math:: d = \frac{1}{P} \sum_p \lVert \hat f_p - \hat f^*_p \rVert^2, \qquad \hat f = \frac{f}{\lVert f \rVert}

    It is twice one minus the cosine, in [0, 4].

    Args:
        student: :math:`f`, ``(B, C, *spatial)``; :math:`P` counts the positions of all samples.
        teacher: :math:`f^*`, of the same shape. No gradient flows to it.

    Returns:
        A scalar, at least in single precision.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]]), torch.tensor([[[9.0, 0.0], [0.0, 5.0]]])
        >>> normalised_feature_distance(student, teacher)
        tensor(1.)
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"Features have shape {tuple(student.shape)}, and those of the old network {tuple(teacher.shape)}: compare"
            " the same layer of one architecture."
        )
    ours, theirs = (normalize(full_precision(features), dim=1) for features in (student, teacher.detach()))
    return (ours - theirs).square().sum(1).mean()
