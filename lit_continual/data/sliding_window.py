"""Whole volumes through a network that sees windows of them."""

from collections.abc import Callable, Sequence

from monai.inferers import SlidingWindowInferer
from torch import Tensor

from lit_continual.data.arguments import require_near_size


def slide(network: Callable[[Tensor], Tensor], volumes: Tensor, window: Sequence[int]) -> Tensor:
    """Map volumes ``(B, C, H, W, D)`` to what ``network`` makes of their windows, blended to ``(B, K, H, W, D)``.

    Args:
        network: Maps ``(N, C, *window)`` to ``(N, K, *window)``.
        volumes: The volumes.
        window: In voxels: three numbers, or two for a network that goes slice by slice over D.
    """
    require_near_size(window, volumes.shape[2:])
    flat = len(window) == volumes.ndim - 3
    seen = (lambda x: network(x.squeeze(-1)).unsqueeze(-1)) if flat else network
    inferer = SlidingWindowInferer([*window] + [1] * flat, sw_batch_size=16, overlap=0.25, mode="gaussian")
    found: Tensor = inferer(volumes, seen)
    return found
