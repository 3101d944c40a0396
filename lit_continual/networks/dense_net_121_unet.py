"""U-Net with a DenseNet121 encoder."""

from collections.abc import Sequence

import torch
from monai.networks.nets import DenseNet121
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lit_continual.runs.checkpoints.classes import NETWORKS

_STRIDE = 32  # of the coarsest features


@NETWORKS.add
class DenseNet121UNet(nn.Module):
    r"""2D U-Net: MONAI's DenseNet121 as ``encoder``, and a ``decoder`` of five transposed convolutions.

    ``decoder(encoder(x))`` is the whole network: ``(B, C, H, W)`` to ``(B, out_channels, H, W)`` logits, for a softmax
    head, or features for heads that grow on it. The sides need not divide by 32: the encoder repeats the border and
    the decoder crops it. At 384 x 384 the coarsest features are 12 x 12. Weights of torchvision's or MONAI's network
    fit the encoder by name; see ``Pretrained``.

    Args:
        in_channels: Channels :math:`C` of the image.
        out_channels: Channels of the output: classes, or features for the heads.
        decoder_channels: Channels after each decoder block, from 1/16 of the resolution to the full one.

    Raises:
        ValueError: If there are not five ``decoder_channels``.

    References:
        Sagie, Greenspan and Goldberger. Transfer Learning via Parameter Regularization for Medical Image
        Segmentation. Section II.A.

    Example:
        >>> network = DenseNet121UNet(in_channels=1, out_channels=3, decoder_channels=(8, 8, 8, 8, 8)).eval()
        >>> network(torch.zeros(1, 1, 50, 70)).shape
        torch.Size([1, 3, 50, 70])
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 2, decoder_channels: Sequence[int] = (512, 256, 128, 64, 32)
    ) -> None:
        super().__init__()
        if len(decoder_channels) != 5:
            raise ValueError(f"`decoder_channels` needs one entry for each of 5 blocks, got {list(decoder_channels)}.")
        self.out_channels = out_channels
        self.encoder = _Encoder(in_channels)
        self.decoder = _Decoder(decoder_channels, out_channels)

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


class _Encoder(nn.Module):
    """MONAI's DenseNet121 without its classifier, under MONAI's names; returns its input and five scales."""

    channels = (64, 256, 512, 1024, 1024)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.features = DenseNet121(spatial_dims=2, in_channels=in_channels, out_channels=1).features

    @override
    def forward(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[-2:]
        coarsest = -(-height // _STRIDE) * -(-width // _STRIDE)
        if self.training and len(x) * coarsest == 1:
            raise ValueError(
                f"One image of {height} x {width} leaves a single value to normalise at 1/{_STRIDE} of its size: train"
                f" on a larger batch, or on more than {_STRIDE} pixels a side."
            )
        features, x = [x], F.pad(x, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
        for name, block in self.features.named_children():
            if name.startswith("transition"):
                x = block.relu(block.norm(x))
                features.append(x)
                x = block.pool(block.conv(x))
            elif name == "pool0":
                features.append(x)
                x = block(x)
            else:
                x = block(x)
        return [*features, F.relu(x)]


class _Decoder(nn.Module):
    """Five blocks, then a 1 x 1 convolution; crops to the image that stands first among the features."""

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        *skips, deepest = _Encoder.channels
        inputs, skips = [deepest, *channels[:-1]], [*reversed(skips), 0]
        self.blocks = nn.ModuleList(_Block(*c) for c in zip(inputs, skips, channels, strict=True))
        self.head = nn.Conv2d(channels[-1], out_channels, kernel_size=1)

    @override
    def forward(self, features: Sequence[Tensor]) -> Tensor:
        image, *skips, x = features
        for block, skip in zip(self.blocks, [*reversed(skips), None], strict=True):
            x = block(x, skip)
        logits: Tensor = self.head(x)
        return logits[..., : image.shape[-2], : image.shape[-1]]


class _Block(nn.Module):
    """Transposed convolution, skip connection, two convolutions with BN and ReLU."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        layers: list[nn.Module] = []
        for channels in (out_channels + skip_channels, out_channels):
            convolution = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)

    @override
    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        return self.convolutions(x if skip is None else torch.cat([x, skip], dim=1))  # type: ignore[no-any-return]
