"""Training samples of one volume that is annotated in part: windows with an annotated voxel in each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import SpatialPad
from torch import Tensor

from lit_continual.data.batch import Sample
from lit_continual.data.patches import FOREGROUND


class AnnotatedWindows:
    """Windows of a volume of which some voxels are annotated, by number and without an end.

    Slices (2D) that hold an annotated voxel come in turn; patches (3D) are drawn. Two of three windows are centred on
    an annotated voxel of a class, where the slice or the volume has one, the others on any annotated voxel, as far as
    the borders allow. A window as large as the slice is the slice. The random state of a sample is made from the seed
    and its index.

    Args:
        volume: A mapping with ``image`` ``(C, H, W, D)``, ``label`` and ``annotated`` ``(1, H, W, D)`` on its grid, and
            ``classes``.
        size: Of a window in voxels, two numbers for slices along the last axis, three for patches. The volume is
            padded where it is smaller.
        seed: Seed of all randomness.

    Raises:
        ValueError: If no voxel is annotated.

    Example:
        >>> volume = {"image": torch.zeros(1, 4, 4, 3), "label": torch.zeros(1, 4, 4, 3), "classes": ("a",)}
        >>> volume["annotated"] = torch.arange(3).expand(1, 4, 4, 3) == 1  # the second slice
        >>> windows = AnnotatedWindows(volume, [4, 4])
        >>> windows.slices, windows[0]["annotated"].all()
        ([1], tensor(True))
    """

    def __init__(self, volume: Mapping[str, Any], size: Sequence[int], seed: int = 0) -> None:
        self.size, self.seed, self.classes = tuple(size), seed, tuple(volume["classes"])
        parts = [volume["image"].float(), volume["label"].float(), volume["annotated"].float()]
        pad = SpatialPad((*self.size, *[1] * (3 - len(self.size))))
        layers: Tensor = pad(torch.cat(parts)).as_tensor()
        #: The slices that hold an annotated voxel.
        self.slices: list[int] = layers[-1].flatten(0, 1).any(0).nonzero().flatten().tolist()
        if not self.slices:
            raise ValueError("No voxel of the volume is annotated. Annotate one slice or more.")
        self._fields = [layers[..., z] for z in self.slices] if len(self.size) == 2 else [layers]
        self._centres = [_centres(field) for field in self._fields]

    def __getitem__(self, k: int) -> Sample:
        random = np.random.default_rng([self.seed, k])
        place = k % len(self._fields)
        field, (annotated, labelled) = self._fields[place], self._centres[place]
        choices = labelled if len(labelled) and random.random() < FOREGROUND else annotated
        centre = np.array(np.unravel_index(int(choices[random.integers(len(choices))]), field.shape[1:]))
        size = np.array(self.size)
        start = np.clip(centre - size // 2, 0, np.array(field.shape[1:]) - size)
        window = field[(slice(None), *(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True)))]
        return {
            "image": window[:-2].contiguous(),
            "label": window[-2:-1].to(torch.uint8),
            "annotated": window[-1:] > 0,
            "classes": self.classes,
        }


def _centres(field: Tensor) -> tuple[Tensor, Tensor]:
    """Flat indices of the annotated voxels of ``(C + 2, *spatial)``, and of those that have a class."""
    annotated = field[-1].flatten() > 0
    labelled = annotated & (field[-2].flatten() > 0)
    return annotated.nonzero().flatten(), labelled.nonzero().flatten()
