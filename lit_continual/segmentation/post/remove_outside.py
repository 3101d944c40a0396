"""False positives: removal of what lies outside an organ."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy
from scipy import ndimage
from typing_extensions import override

from lit_continual.runs.checkpoints.classes import TRANSFORMS


@TRANSFORMS.add
class RemoveOutside(Transform):  # type: ignore[misc]  # MONAI is not typed
    r"""Remove the connected components of a class that lie outside an organ, such as opacities outside the lungs.

    A component :math:`C` (voxels that share a face) stays if :math:`|C \cap R| / |C| > t`, with :math:`R` the organ
    grown by ``margin`` voxels. The organ is given as a mask, or is other classes of the same map; those exclude the
    lesion itself, so a lesion inside it is reached through ``margin`` and the default :math:`t = 0`.

    Args:
        label: Value of the class whose components are checked.
        organ: Values of the classes that are the organ, in the mask or in the map itself.
        margin: Voxels that the organ is grown by.
        overlap: The share :math:`t`, at least 0 and below 1.

    Raises:
        ValueError: If an argument is out of range, or the mask has another shape.

    References:
        Sagie, Greenspan and Goldberger. Transfer Learning via Parameter Regularization for Medical Image
        Segmentation. Section II.A, "removal of opacities outside the lungs"; the rule is ours.

    Example:
        >>> import torch
        >>> lung, opacity = 1, 2
        >>> prediction = torch.tensor([[[1, 2, 0, 2, 2]]])
        >>> RemoveOutside(label=opacity, organ=[lung])(prediction)
        tensor([[[1, 2, 0, 0, 0]]])
    """

    def __init__(self, label: int, organ: Sequence[int] = (1,), margin: int = 1, overlap: float = 0.0) -> None:
        if margin < 0 or not 0 <= overlap < 1:
            raise ValueError(f"`margin` must be 0 or more and `overlap` in [0, 1), got {margin} and {overlap}.")
        if not organ:
            raise ValueError("`organ` must name at least one class.")
        self.label, self.organ, self.margin, self.overlap = label, list(organ), margin, overlap

    @override
    def __call__(self, data: Any, mask: Any | None = None) -> Any:
        """Map a label map ``(1, H, W[, D])``, with the organ's mask of that shape if it has one, to another."""
        labels = np.asarray(convert_to_numpy(data)).copy()
        organ = np.isin(labels if mask is None else np.asarray(convert_to_numpy(mask)), self.organ)
        if organ.shape != labels.shape:
            raise ValueError(
                f"The organ's mask has shape {organ.shape}, and the label map {labels.shape}. Resample it to one grid."
            )
        region = ndimage.binary_dilation(organ[0], iterations=self.margin) if self.margin else organ[0]
        components, count = ndimage.label(labels[0] == self.label)
        shares = ndimage.mean(region, components, index=np.arange(1, count + 1))
        outside = np.flatnonzero(np.asarray(shares) <= self.overlap) + 1
        labels[0][np.isin(components, outside)] = 0
        return convert_to_dst_type(labels, data)[0]


@TRANSFORMS.add
class RemoveOutsided(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """:class:`RemoveOutside` of dictionary entries.

    Args:
        keys: Entries to change.
        label: Value of the class whose components are checked.
        organ: Values of the classes that are the organ.
        mask_key: Entry with the organ's mask; ``None`` takes the organ from the map itself.
        margin: Voxels that the organ is grown by.
        overlap: Share of a component that must lie in the grown organ.
        allow_missing_keys: Whether an entry may be missing.

    Example:
        >>> import torch
        >>> volume = {"pred": torch.tensor([[[1, 1, 0, 1]]]), "lungs": torch.tensor([[[1, 1, 1, 0]]])}
        >>> RemoveOutsided("pred", label=1, mask_key="lungs", margin=0)(volume)["pred"]
        tensor([[[1, 1, 0, 0]]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        label: int,
        organ: Sequence[int] = (1,),
        mask_key: str | None = None,
        margin: int = 1,
        overlap: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform, self.mask_key = RemoveOutside(label, organ, margin, overlap), mask_key

    @override
    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        mask = None if self.mask_key is None else data[self.mask_key]
        return {**data, **{key: self.transform(data[key], mask) for key in self.key_iterator(data)}}
