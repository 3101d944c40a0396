"""The weighted mean of two networks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def fuse_weights(old: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    r"""Interpolate between the weights of two networks.

    .. math:: \theta = (1 - \alpha)\,\theta_\text{old} + \alpha\,\theta_\text{new}

    What only the new network has is the new network's. A tensor that has grown is fused where the old one lies, at the
    beginning of each axis. Tensors of whole numbers are the new network's. Where both agree, nothing changes.

    Args:
        old: :math:`\theta_\text{old}` by name.
        new: :math:`\theta_\text{new}` by name, of the same shapes or larger ones.
        share: :math:`\alpha`, share of the new network, in [0, 1].

    Returns:
        :math:`\theta` under the names of ``new``, on its devices and in its dtypes.

    Raises:
        ValueError: If ``share`` is out of range, or a tensor of the old network is gone or has become smaller.

    References:
        Wortsman et al. Robust fine-tuning of zero-shot models. CVPR 2022, eq. 1.

    Example:
        >>> old, new = {"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0, 6.0]), "head": torch.tensor([1.0])}
        >>> fuse_weights(old, new, share=0.25)
        {'w': tensor([1., 6.]), 'head': tensor([1.])}
    """
    require_share(share)
    if gone := sorted(old.keys() - new.keys()):
        raise ValueError(
            f"`{gone[0]}` is in the old network and not in the new one: fuse networks of one architecture."
        )
    fused = {name: value.clone() for name, value in new.items()}
    for name, value in old.items():
        part = beginning(fused[name], value.shape, name)
        if part.is_floating_point():
            part.copy_(torch.lerp(value.to(part.device, part.dtype), part, share))  # exact where both agree
    return fused


def beginning(value: Tensor, shape: Sequence[int], name: str) -> Tensor:
    """Return a view of the first entries of a tensor along each axis.

    Raises:
        ValueError: If the tensor has fewer.
    """
    if value.ndim != len(shape) or any(mine < old for mine, old in zip(value.shape, shape, strict=True)):
        raise ValueError(
            f"`{name}` had the shape {tuple(shape)} and has {tuple(value.shape)}: an old network is fused with one that"
            " has kept or grown its weights."
        )
    return value[tuple(map(slice, shape))]


def require_share(share: float) -> None:
    """Raise ``ValueError`` unless the share of the new network lies in [0, 1]."""
    if not 0 <= share <= 1:
        raise ValueError(f"`share` of the new network must be in [0, 1], got {share}.")
