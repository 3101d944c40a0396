"""Whole volumes through a network that sees windows of them."""

from collections.abc import Callable, Sequence
from typing import Any

from monai.inferers import SlidingWindowInferer
from torch import Tensor

from lit_continual.windows.sizes import require_few_windows, require_near_size


def slide(
    network: Callable[[Tensor], Tensor],
    volumes: Tensor,
    window: Sequence[int],
    overlap: float = 0.25,
    mode: str = "gaussian",
    padding_mode: str = "constant",
    sw_batch_size: int = 16,
    device: Any = None,
) -> Tensor:
    """Map volumes ``(B, C, H, W, D)`` to what ``network`` makes of their windows, blended to ``(B, K, H, W, D)``.

    Args:
        network: Maps ``(N, C, *window)`` to ``(N, K, *window)``.
        volumes: The volumes.
        window: In voxels: three numbers, or two for a network that goes slice by slice over D.
        overlap: Share of a window that it has in common with the next.
        mode: Weight of a window's voxels: ``"gaussian"`` or ``"constant"``.
        padding_mode: How a volume is padded that is smaller than a window.
        sw_batch_size: Windows that go through the network together.
        device: Where their answers are added up; ``None`` is where the volumes are.
    """
    require_near_size(window, volumes.shape[2:])
    require_few_windows(window, volumes.shape[2:], overlap)
    flat = len(window) == volumes.ndim - 3
    seen = (lambda x: network(x.squeeze(-1)).unsqueeze(-1)) if flat else network
    inferer = SlidingWindowInferer(
        [*window] + [1] * flat,
        sw_batch_size=sw_batch_size,
        overlap=overlap,
        mode=mode,
        padding_mode=padding_mode,
        device=device,
    )
    found: Tensor = inferer(volumes, seen)
    return found
