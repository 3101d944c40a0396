"""FCN-8s on VGG16: the network of the meta-tuning paper."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lit_continual.networks.vgg16_features import vgg16_convolutions
from lit_continual.runs.checkpoints.classes import NETWORKS
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint

#: Standard deviation of red, green and blue over ImageNet, on the scale 0-255 that the weights expect.
IMAGENET_STD = (58.395, 57.12, 57.375)


@NETWORKS.add
class FCN8s(nn.Module):
    """Segment slices by a VGG16 encoder and the sum of logits at strides 32, 16 and 8.

    The logits of stride 32 are upsampled by two and added to those of pool 4, their sum again to those of pool 3, and
    that by eight; upsampling is a transposed convolution that starts as bilinear interpolation, logits start at zero.
    Inputs of any size are padded with zeros to a multiple of 32 and the logits cropped.

    Args:
        in_channels: Channels of the input, such as four MR sequences, each z-scored.
        out_channels: Channels of the output.
        weights: File of VGG16's convolutions trained on ImageNet (Oxford: RGB on 0-255 less the mean), with the names
            ``features.0.weight`` to ``features.28.bias``. Its first kernel is adapted to z-scored channels, whatever
            their number C: each gets ``sum_rgb(std * kernel) / C``, so that the same picture in all channels answers
            as that picture in grey did. The logits of pool 4 and pool 3, whose activations are large, are then scaled
            by 0.01 and 0.0001. Without a file the weights are He's.
        head_channels: Width of the two convolutions after pool 5, which are always trained from scratch.
        dropout: Dropout after each of the two.
        scaled: Whether those logits are scaled; by default where there is a file. A checkpoint says so, not which file.

    Raises:
        ValueError: If ``weights`` is not such a file.

    References:
        Long, Shelhamer and Darrell. Fully Convolutional Networks for Semantic Segmentation. CVPR 2015; the scales are
        of the version that is trained all at once, in Shelhamer, Long and Darrell, TPAMI 2017.

    Example:
        >>> FCN8s(head_channels=8)(torch.zeros(1, 4, 40, 33)).shape
        torch.Size([1, 4, 40, 33])
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        weights: str | None = None,
        head_channels: int = 4096,
        dropout: float = 0.5,
        scaled: bool | None = None,
    ) -> None:
        super().__init__()
        self.features = vgg16_convolutions(in_channels)
        self.head = nn.Sequential(
            *(nn.Conv2d(512, head_channels, 7, padding=3), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Conv2d(head_channels, head_channels, 1), nn.ReLU(), nn.Dropout(dropout)),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # there is one
        self.score5, self.score4, self.score3 = (nn.Conv2d(n, out_channels, 1) for n in (head_channels, 512, 256))
        for layer in (self.score5, self.score4, self.score3):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.double5, self.double4 = (_upsampling(out_channels, 2) for _ in range(2))
        self.eightfold = _upsampling(out_channels, 8)
        self.scale4, self.scale3 = (0.01, 0.0001) if (bool(weights) if scaled is None else scaled) else (1.0, 1.0)
        if weights:
            self.features.load_state_dict(_read(weights, in_channels))

    @staticmethod
    def without_files(arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that build this network where the file of its first weights is not at hand."""
        kept = {name: value for name, value in arguments.items() if name != "weights"}
        return {"scaled": True, **kept} if arguments.get("weights") else kept

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to logits ``(B, out_channels, H, W)``."""
        height, width = image.shape[2:]
        x = pad(image, (0, -width % 32, 0, -height % 32))
        pools = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)
        logits = self.double5(self.score5(self.head(pools[4]))) + self.score4(self.scale4 * pools[3])
        logits = self.double4(logits) + self.score3(self.scale3 * pools[2])
        cropped: Tensor = self.eightfold(logits)[..., :height, :width]
        return cropped


def _upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Bilinear interpolation of each channel, to be trained."""
    layer = nn.ConvTranspose2d(channels, channels, 2 * factor, stride=factor, padding=factor // 2, bias=False)
    ramp = 1 - (torch.arange(2 * factor) - factor + 0.5).abs() / factor
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = torch.outer(ramp, ramp)
    return layer


def _read(file: str, in_channels: int) -> dict[str, Tensor]:
    if not Path(file).is_file():
        raise ValueError(f"`weights` must be a file with VGG16's convolutions, and there is none at {file}.")
    found = load_checkpoint(file)
    with torch.device("meta"):  # only the shapes
        expected = {f"features.{name}": value.shape for name, value in vgg16_convolutions(3).state_dict().items()}
    wrong = [name for name, shape in expected.items() if name not in found or found[name].shape != shape]
    if wrong:
        raise ValueError(
            f"{file} does not hold VGG16's convolutions: {wrong[0]} is missing or has another shape than"
            f" {tuple(expected[wrong[0]])}. Save them as `features.0.weight` to `features.28.bias`."
        )
    weights = {name.removeprefix("features."): found[name].float() for name in expected}
    grey = (weights["0.weight"] * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)).sum(1, keepdim=True)
    weights["0.weight"] = (grey / in_channels).repeat(1, in_channels, 1, 1)
    return weights
