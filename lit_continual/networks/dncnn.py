"""DnCNN: a denoiser that predicts the noise."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_continual.runs.checkpoints.classes import NETWORKS


@NETWORKS.add
class DnCNN(nn.Module):
    r"""2.5D denoiser: :math:`x_{\text{middle}} + f(x)`, with :math:`f` a plain stack of 3 x 3 convolutions.

    Batch norm and ReLU follow every convolution but the first, which has a ReLU only, and the last, which has nothing.

    Args:
        in_channels: Neighbouring slices that come in; an odd number, of which the middle one is denoised.
        features: Feature maps of each hidden layer.
        depth: Convolutions, at least 2.

    Raises:
        ValueError: If ``in_channels`` is even, or ``depth`` or ``features`` too small.

    Maps ``(B, in_channels, H, W)`` to ``(B, 1, H, W)``, of any height and width.

    References:
        Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, fig. 1; Zhang et al. Beyond a Gaussian denoiser.
        IEEE TIP 2017.

    Example:
        >>> DnCNN(features=8)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(self, in_channels: int = 3, features: int = 64, depth: int = 8) -> None:
        super().__init__()
        if in_channels < 1 or in_channels % 2 == 0:
            raise ValueError(f"`in_channels` must be odd, so that there is a middle slice, got {in_channels}.")
        if depth < 2 or features < 1:
            raise ValueError(f"`depth` must be at least 2 and `features` at least 1, got {depth} and {features}.")
        self.middle = in_channels // 2
        widths = [in_channels, *[features] * (depth - 1), 1]
        blocks = []
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            inner = 0 < i < depth - 1  # a batch norm shifts by itself, so its convolution needs no bias
            block: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=not inner)]
            block += [nn.BatchNorm2d(outputs)] * inner + [nn.ReLU(inplace=True)] * (i < depth - 1)
            blocks.append(nn.Sequential(*block))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.blocks(x)
        return torch.narrow(x, 1, self.middle, 1) + residual
