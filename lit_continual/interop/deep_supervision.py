"""Losses at lower resolutions of a decoder, as nnU-Net trains (deep supervision)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.shared_head import SharedHead


def supervision_weights(outputs: int) -> list[float]:
    r"""Weights of the losses of a decoder's outputs, of the highest resolution first.

    .. math:: w_i \propto 2^{-i}, \quad \sum_i w_i = 1, \qquad 0 \text{ for the lowest resolution of several}

    Args:
        outputs: How many resolutions there are.

    References:
        ``nnUNetTrainer._build_loss`` of nnunetv2.

    Example:
        >>> supervision_weights(4)
        [0.5714285714285714, 0.2857142857142857, 0.14285714285714285, 0.0]
        >>> supervision_weights(2), supervision_weights(1)
        ([1.0, 0.0], [1.0])
    """
    weights = [2.0**-i for i in range(max(1, outputs - 1))]
    return [weight / sum(weights) for weight in weights] + [0.0] * (outputs > 1)


@contextmanager
def outputs_of(parts: Mapping[int, nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Collect what modules return while they are called.

    Args:
        parts: The modules, each under a number.

    Yields:
        The last output of each, under its number.
    """
    found: dict[int, Tensor] = {}

    def keep(number: int) -> object:
        return lambda _module, _arguments, output: found.__setitem__(number, output)

    hooks = [part.register_forward_hook(keep(number)) for number, part in parts.items()]  # type: ignore[arg-type]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def coarse(label: Tensor, like: Tensor) -> Tensor:
    """Bring label maps ``(B, 1, *spatial)`` to the grid of features ``(B, F, *coarse)``, by the nearest voxel."""
    return interpolate(label.float(), like.shape[2:], mode="nearest-exact").to(label.dtype)


@torch.no_grad()
def grow_from_background(heads: GrowingHeads | SharedHead, classes: list[str]) -> None:
    """Add classes that are parts of the background, and fold to it as long as they are not trained."""
    heads.grow(classes)
    if isinstance(heads, GrowingHeads):
        for parameter in heads.layers[-1].parameters():
            parameter.zero_()
