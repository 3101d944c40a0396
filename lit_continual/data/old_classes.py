"""Where a network that was trained before finds its classes in volumes that do not annotate them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lit_continual.data.foreground import Foreground
from lit_continual.windows.stitching import blocks

Predict = Callable[[Tensor], Tensor]


@dataclass
class OldClasses:
    """What samplers need to know of them.

    Args:
        share: Of the patches that are centred on a class, and of the slices that are chosen for one, how many are so
            for these.
        found: Of each volume, class -> some of its voxels ``(H, W, D)`` by flat index.
    """

    share: float = 0.0
    found: list[Mapping[int, Tensor]] = field(default_factory=list)

    def look(
        self,
        volumes: Sequence[Mapping[str, Any]],
        predict: Predict,
        labels: Predict,
        window: Sequence[int],
        wanted: Sequence[bool],
    ) -> None:
        """Ask the network about each volume that is ``wanted``; see :meth:`.PatchDataset.centre`."""
        bar = tqdm(zip(volumes, wanted, strict=True), "Looking for old classes", len(wanted), leave=False, disable=None)
        self.found = [_centres(predict, labels, volume["image"], window) if wants else {} for volume, wants in bar]

    def centres(self, i: int, own: Tensor, random: np.random.Generator, depth: int = 1, z: int = 0) -> Tensor:
        """Choose between what is annotated and these classes for a patch of a volume.

        Args:
            i: The volume.
            own: What is annotated, by flat index.
            random: Where choices come from.
            depth: Slices of the volume; 1 for a patch in 3D.
            z: The slice that the patch is in.

        Returns:
            ``own``, or voxels of one of these classes.
        """
        if not self.found:
            return own
        others = [inside for one in self.found[i].values() if len(inside := one[one % depth == z] // depth)]
        if not others or (len(own) and random.random() >= self.share):
            return own
        return others[int(random.integers(len(others)))]

    def slices(self, index: Sequence[tuple[int, int]], depths: Sequence[int]) -> Iterator[tuple[float, list[int]]]:
        """Which samples show each class, with its share of the samples that are chosen for a class.

        Args:
            index: Volume and slice of each sample.
            depths: Slices of each volume.
        """
        shown = [
            {k: set((at % n).tolist()) for k, at in one.items()} for one, n in zip(self.found, depths, strict=False)
        ]
        known = sorted({k for one in shown for k in one})
        for k in known:
            yield self.share / len(known), [s for s, (i, z) in enumerate(index) if z in shown[i].get(k, ())]


@torch.no_grad()
def _centres(predict: Predict, labels: Predict, image: Tensor, window: Sequence[int]) -> dict[int, Tensor]:
    """Some voxels of each class that a network finds in a volume, by flat index."""
    found = torch.zeros(1, *image.shape[1:], dtype=torch.int16)
    for block in blocks(predict, image, window):
        where = (slice(s, s + n) for s, n in zip(block.start, block.values.shape[1:], strict=True))
        found[(slice(None), *where)] = labels(block.values[None]).to(found)
    return {k: Foreground.of(found == k, centres=True).centres for k in found.unique().tolist() if k}
