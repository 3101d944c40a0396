"""The distance of logits to those of an old network."""

from torch import Tensor

from lit_continual.methods.bases.fit.precision import full_precision


def dark_experience_loss(logits: Tensor, stored_logits: Tensor) -> Tensor:
    r"""Squared distance of logits to stored ones, of each sample.

    .. math:: \ell(x') = \frac{1}{C' V} \sum_{c \le C'} \sum_v (z_{cv}(x') - z'_{cv})^2

    The mean over :math:`C'` channels and :math:`V` voxels, so that the weight of the term means the same at any size.
    Channels that the stored logits have not, those of classes that came later, are left out.

    Args:
        logits: :math:`z(x')` of the network in training, ``(B, C, *spatial)`` or ``(B, C)``.
        stored_logits: :math:`z'` of the old network, ``(B, C', *spatial)`` with ``C' <= C``. No gradient flows to them.

    Returns:
        ``(B,)``, at least in single precision.

    Raises:
        ValueError: If the shapes do not fit.

    References:
        Buzzega, Boschini, Porrello, Abati and Calderara. Dark experience for general continual learning. NeurIPS 2020,
        eq. 6.

    Example:
        >>> import torch
        >>> dark_experience_loss(torch.full((1, 3, 8, 8), 2.0), torch.zeros(1, 2, 8, 8))
        tensor([4.])
    """
    same = logits.shape[:1] + logits.shape[2:] == stored_logits.shape[:1] + stored_logits.shape[2:]
    if not same or logits.shape[1] < stored_logits.shape[1]:
        raise ValueError(
            f"`logits` have shape {tuple(logits.shape)} and `stored_logits` {tuple(stored_logits.shape)}: the former"
            " need the channels of the latter first, on one grid."
        )
    difference = full_precision(logits[:, : stored_logits.shape[1]]) - full_precision(stored_logits.detach())
    return difference.square().reshape(len(difference), -1).mean(1)
