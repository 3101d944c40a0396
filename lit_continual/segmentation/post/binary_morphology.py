"""Morphological post-processing of predicted label maps."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy
from scipy import ndimage
from typing_extensions import override

from lit_continual.runs.checkpoints.classes import TRANSFORMS

Operation = Literal["opening", "closing", "fill_holes"]


@TRANSFORMS.add
class BinaryMorphology(Transform):  # type: ignore[misc]  # MONAI is not typed
    """Open, close, or fill the holes of one class of a label map.

    What an operation adds to the class is taken from the background only, and what it removes becomes background.
    Neighbours are voxels that share a face. Outside the volume there is background to an opening, and to a closing
    what its border repeats.

    Args:
        label: Value of the class in the map.
        operation: ``opening`` removes what is thinner than the element, ``closing`` fills gaps thinner than it, and
            ``fill_holes`` fills background enclosed in a slice along the last axis, or in a 2D map.
        radius: How often the element of face neighbours is applied, in voxels; unused by ``fill_holes``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> ring = torch.ones(1, 3, 3, dtype=torch.uint8)
        >>> ring[0, 1, 1] = 0
        >>> BinaryMorphology(label=1, operation="fill_holes")(ring).sum()
        tensor(9)
    """

    def __init__(self, label: int, operation: Operation, radius: int = 1) -> None:
        if operation not in ("opening", "closing", "fill_holes"):
            raise ValueError(f"`operation` must be opening, closing or fill_holes, got {operation}.")
        if label < 1 or radius < 1:
            raise ValueError(f"`label` and `radius` must be 1 or more, got {label} and {radius}.")
        self.label, self.operation, self.radius = label, operation, radius

    @override
    def __call__(self, data: Any) -> Any:
        """Map a label map ``(1, H, W[, D])`` to another of its type."""
        labels = np.asarray(convert_to_numpy(data)).copy()
        mask = labels[0] == self.label
        changed = self._apply(mask)
        labels[0][mask & ~changed] = 0
        labels[0][changed & (labels[0] == 0)] = self.label
        return convert_to_dst_type(labels, data)[0]

    def _apply(self, mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.operation == "fill_holes":
            if mask.ndim == 2:
                return np.asarray(ndimage.binary_fill_holes(mask))
            return np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(mask, -1, 0)], -1)
        if self.operation == "opening":
            return np.asarray(ndimage.binary_opening(mask, iterations=self.radius))
        padded = np.pad(mask, self.radius, mode="edge")
        closed = np.asarray(ndimage.binary_closing(padded, iterations=self.radius))
        inner = (slice(self.radius, -self.radius),) * mask.ndim
        return np.asarray(np.logical_or(closed[inner], mask))


@TRANSFORMS.add
class BinaryMorphologyd(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """:class:`BinaryMorphology` of dictionary entries.

    Args:
        keys: Entries to change.
        label: Value of the class in the map.
        operation: ``opening``, ``closing`` or ``fill_holes``.
        radius: In voxels.
        allow_missing_keys: Whether an entry may be missing.

    Example:
        >>> import torch
        >>> prediction = {"pred": torch.ones(1, 4, 4)}
        >>> BinaryMorphologyd("pred", label=1, operation="opening", radius=2)(prediction)["pred"].sum()
        tensor(0.)
    """

    def __init__(
        self,
        keys: KeysCollection,
        label: int,
        operation: Operation,
        radius: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = BinaryMorphology(label, operation, radius)

    @override
    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self.transform(data[key]) for key in self.key_iterator(data)}}
