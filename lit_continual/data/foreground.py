"""Where a volume has a revealed class: looked up once, when the volume is loaded."""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

CENTRES = 10_000  # voxels remembered of a volume


@dataclass(frozen=True)
class Foreground:
    """What samplers need to know of a label map, so that none is read again in training.

    Args:
        values: The label values that occur, 0 among them.
        slices: Which slices along the last axis have a revealed class.
        centres: Some voxels of revealed classes from everywhere, by flat index; empty where nobody wants them.
    """

    values: tuple[int, ...]
    slices: tuple[bool, ...]
    centres: Tensor

    @classmethod
    def of(cls, label: Tensor, centres: bool) -> Self:
        """Look through a label map ``(1, H, W, D)``.

        Example:
            >>> label = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
            >>> label[0, 1, 0, 2] = 4
            >>> found = Foreground.of(label, centres=True)
            >>> found.values, found.slices, found.centres.tolist()
            ((0, 4), (False, False, True), [8])
        """
        values = torch.bincount(label.flatten().to(torch.uint8)).nonzero().flatten().tolist()
        slices = (label[0].flatten(0, 1) != 0).any(0).tolist()
        voxels = label.flatten().nonzero().flatten() if centres else torch.empty(0, dtype=torch.int64)
        return cls(tuple(values), tuple(slices), voxels[:: -(-len(voxels) // CENTRES) or 1].clone())
