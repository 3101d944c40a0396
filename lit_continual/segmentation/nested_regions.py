"""One label map of regions that lie in one another."""

from collections.abc import Sequence

import torch
from torch import Tensor


def nested_labels(masks: Tensor, probabilities: Tensor, regions: Sequence[Sequence[str]]) -> Tensor:
    """Paint regions from large to small: a voxel gets the innermost of the regions that it is in.

    A region lies in another if its classes are a part of the other's. Of regions that do not lie in one another, the
    more probable one is painted.

    Args:
        masks: Boolean ``(B, K, *spatial)``, of the K regions.
        probabilities: ``(B, K, *spatial)``.
        regions: The classes of each region.

    Returns:
        ``(B, *spatial)``: 0, or the place of a region, counted from 1.

    Example:
        >>> whole_core_enhancing = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]).bool()
        >>> nested_labels(whole_core_enhancing, whole_core_enhancing.float(), ["abc", "ac", "c"])
        tensor([3, 2, 1, 3, 0])
    """
    inside = [[i for i, inner in enumerate(regions) if set(inner) < set(outer)] for outer in regions]
    innermost = torch.stack(
        [masks[:, k] & ~masks[:, smaller].any(1) if smaller else masks[:, k] for k, smaller in enumerate(inside)], 1
    )
    best = torch.where(innermost, probabilities, -1.0).max(1)
    return torch.where(best.values >= 0, best.indices + 1, 0)
