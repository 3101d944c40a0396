"""The convolutions of VGG16, whose activations describe the content of an image."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.error import URLError

import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.files.folder_aside import made_folder
from lit_continual.runs.checkpoints.classes import NETWORKS
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint

Convention = Literal["oxford", "torchvision"]

#: Published weights by the normalisation they were trained with. The end of a name is the start of its SHA-256.
URLS: dict[Convention, str] = {
    "torchvision": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "oxford": "https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth",
}
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_convolutions(in_channels: int = 3, inplace: bool = False) -> nn.Sequential:
    """Return the 13 convolutions of VGG16, a ReLU after each and a pooling after each stage, at the published places.

    Example:
        >>> [name for name, layer in vgg16_convolutions().named_children() if isinstance(layer, nn.MaxPool2d)]
        ['4', '9', '16', '23', '30']
    """
    layers: list[nn.Module] = []
    for stage in STAGES:
        for width in stage:
            layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace)]
            in_channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@NETWORKS.add_for_configs
class VGG16Features(nn.Module):
    r"""The 13 convolutions of VGG16, frozen, named as published: ``features.0`` to ``features.28``.

    Images of any intensity scale are mapped to the input that the weights know, image by image: the minimum becomes 0
    and the maximum 1 (255), over all channels together, so that MR, CT and PET need no window; an image of one
    intensity becomes 0. One channel is repeated to three. Then

    * ``"oxford"``: 0 to 255 minus the means (123.68, 116.779, 103.939), not divided, RGB;
    * ``"torchvision"``: 0 to 1 minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225), RGB.

    Args:
        weights: File of a state dict with ``features.<i>.weight`` and ``.bias``, in any precision; what else it holds
            is left out, and environment variables in the path are expanded. ``None`` takes the weights published for
            ``convention`` from torchvision's cache, or downloads them to it and verifies their checksum.
            ``"random"`` keeps random weights.
        convention: The normalisation that the weights were trained with.

    Raises:
        ValueError: If ``convention`` is unknown, or the file lacks a convolution or has another shape for one.
        FileNotFoundError: If there is no file, or nothing in the cache and no network.

    References:
        Simonyan and Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015.

    Example:
        >>> network = VGG16Features("random")
        >>> [tuple(a.shape) for a in network(torch.rand(1, 1, 32, 32))][::6]
        [(1, 64, 32, 32), (1, 256, 8, 8), (1, 512, 2, 2)]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | Path | None = None, convention: Convention = "oxford") -> None:
        super().__init__()
        if convention not in get_args(Convention):
            raise ValueError(f"`convention` must be one of {get_args(Convention)}, got {convention!r}.")
        mean, std = {
            "oxford": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3),
            "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        }[convention]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.features = vgg16_convolutions(inplace=True)
        del self.features[-1]  # nothing asks for the last pooling
        if weights != "random":
            self._load(published_weights(convention) if weights is None else Path(os.path.expandvars(weights)))
        self.requires_grad_(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Map images ``(n, 1 or 3, H, W)`` of any intensities to the input of the weights, ``(n, 3, H, W)``."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"`images` must have shape (n, 1 or 3, H, W), got {tuple(images.shape)}.")
        images = images.to(self.mean.dtype)
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        scaled = (images - low) / torch.where(high > low, high - low, 1)
        return (scaled - self.mean) / self.std

    def activations(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the activations after the ReLU of each convolution, ``(n, C, h, w)``, and hold no more than one."""
        signal = self.normalise(images)
        for layer in self.features:
            signal = layer(signal)
            if isinstance(layer, nn.ReLU):
                yield signal

    @override
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the activations of all 13 convolutions."""
        return list(self.activations(images))

    def _load(self, file: Path) -> None:
        if not file.is_file():
            raise FileNotFoundError(f"There are no VGG16 weights at `{file}`; {_REMEDY}")
        state: dict[str, Any] = load_checkpoint(file)
        expected = self.state_dict()
        for name, value in expected.items():
            if name not in state or state[name].shape != value.shape:
                found = tuple(state[name].shape) if name in state else "none"
                raise ValueError(
                    f"`{file}` should hold `{name}` of shape {tuple(value.shape)}, found {found}: it is not a state"
                    " dict of VGG16 without batch normalisation."
                )
        self.load_state_dict({name: state[name] for name in expected})


def published_weights(convention: Convention) -> Path:
    """Return the file of the weights published for ``convention``, from torch's cache or downloaded and verified."""
    url = URLS[convention]
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not file.is_file():
        made_folder(file.parent)
        checksum = file.stem.rsplit("-", 1)[1]
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=checksum, progress=False)
        except (URLError, OSError) as error:
            raise FileNotFoundError(
                f"There are no VGG16 weights at `{file}` and `{url}` cannot be reached ({error}); {_REMEDY}"
            ) from error
    return file


_REMEDY = (
    "download that address on a machine with a network, copy the file here and give its path as `weights`, with the"
    f" `convention` it was trained with: {URLS['torchvision']} ('torchvision') or {URLS['oxford']} ('oxford')."
)
