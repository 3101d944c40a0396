"""The heads of a segmenter as one layer, for programs that know one softmax."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.shared_head import SharedHead


@torch.no_grad()
def folded_layer(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    r"""Weights and biases of one 1 x 1 convolution whose outputs are the folded logits of several.

    .. math:: w'_c = w_c + (w_{b_1} - w_{b_h}), \qquad \beta'_c = \beta_c + (\beta_{b_1} - \beta_{b_h})

    as :func:`~lit_continual.segmentation.label_map.folded_logits` does with the logits; the rows of the first are as
    they were.

    Args:
        layers: The convolution of each head, whose first output is the background of the head.

    Returns:
        ``(1 + K, F, 1, 1[, 1])`` and ``(1 + K,)``.

    Example:
        >>> weight, bias = folded_layer([nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 1)])
        >>> weight.shape, bias.shape
        (torch.Size([4, 4, 1, 1]), torch.Size([4]))
    """
    weight, bias = (_folded([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return weight, bias


@torch.no_grad()
def folded_heads(heads: GrowingHeads | SharedHead) -> tuple[Tensor, Tensor]:
    """Weights and biases of one 1 x 1 convolution for separate heads, folded, or for a shared head, which is one.

    Example:
        >>> heads = SharedHead(4, 2, [["liver"], ["spleen"]])
        >>> weight, bias = folded_heads(heads)
        >>> features = torch.randn(1, 4, 3, 3)
        >>> torch.allclose(nn.functional.conv2d(features, weight, bias), heads(features), atol=1e-6)
        True
    """
    layers = list(heads.layers)
    if isinstance(heads, GrowingHeads):
        return folded_layer(layers)
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    bias[0] -= heads.offset
    return weight, bias


def _folded(rows: Sequence[Tensor]) -> Tensor:
    first = rows[0][:1]
    return torch.cat([first, *(head[1:] + (first - head[:1]) for head in rows)]).clone()
