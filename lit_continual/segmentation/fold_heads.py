"""Heads of several experiences as the one output layer that other programs know."""

import torch
from torch import Tensor

from lit_continual.segmentation.growing_heads import GrowingHeads


@torch.no_grad()
def fold_heads(heads: GrowingHeads) -> tuple[Tensor, Tensor]:
    r"""Return one softmax layer over the background and the classes of all heads, in the order of learning.

    With :math:`w_{h,c}` the row of class c in head h, and 0 for the background,

    .. math:: w_c = w_{h,c} - w_{h,0} + w_{1,0}

    and the same for biases. So the log-odds of every class against the background are those of its own head, and what
    the first head says is left as it is, bit for bit. Where two heads claim a voxel, the folded layer takes the class
    with the higher log-odds.

    Args:
        heads: One or more heads.

    Returns:
        Weight ``(1 + K, F, 1, 1[, 1])`` and bias ``(1 + K,)`` of a 1 x 1 convolution.

    Raises:
        ValueError: If there is no head.

    Example:
        >>> heads = GrowingHeads(16, spatial_dims=2, classes=[["humerus"], ["scapula", "clavicle"]])
        >>> weight, bias = fold_heads(heads)
        >>> weight.shape, bias.shape
        (torch.Size([4, 16, 1, 1]), torch.Size([4]))
    """
    if not heads.layers:
        raise ValueError("There is no head to fold. Train the network on a class first, or take another checkpoint.")
    folded = [_folded([getattr(layer, name) for layer in heads.layers]) for name in ("weight", "bias")]
    return folded[0], folded[1]


def _folded(rows: list[Tensor]) -> Tensor:
    first, *others = rows
    background = first[:1].double()
    return torch.cat([first, *((one[1:].double() - one[:1].double() + background).to(first.dtype) for one in others)])
