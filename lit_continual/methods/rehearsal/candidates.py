"""What a memory may choose from: training samples as they were before augmentation."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Candidates(Protocol):
    """Training samples of one experience, ``n`` of them, that a memory may keep."""

    #: Names of the classes that the samples are chosen for.
    classes: list[str]

    def contains(self) -> Tensor:
        """Which classes are in the label of a sample, ``(n, J)`` bool."""
        ...

    def images(self) -> Sequence[Tensor]:
        """What a network sees of each sample, ``(C, H, W[, D])``, all of one size."""
        ...

    def volume(self, k: int) -> int:
        """Which volume sample ``k`` is of."""
        ...

    def sample(self, k: int, whole: bool) -> dict[str, Any]:
        """Sample ``k`` as it is stored, or its whole volume: tensors, numbers and strings."""
        ...


class SliceCandidates:
    """Slices ``(C, H, W, 1)`` along the last axis of volumes, or for 3D patches the volumes themselves.

    A network sees a window of the patch size in the middle of the sample's foreground, as far as the borders allow.

    Args:
        volumes: Mappings with ``image`` ``(C, H, W, D)``, ``label`` ``(1, H, W, D)``, ``classes`` and ``patient``.
        patch_size: In voxels: two numbers for slices, three for volumes.

    Example:
        >>> label = torch.zeros(1, 6, 6, 2, dtype=torch.uint8)
        >>> label[0, 4, 1, 1] = 1
        >>> volume = {"image": label.float(), "label": label, "classes": ("bone",), "patient": "p"}
        >>> slices = SliceCandidates([volume], (3, 3))
        >>> slices.contains().tolist(), slices.images()[1][0].tolist()[1]
        ([[False], [True]], [0.0, 1.0, 0.0])
    """

    def __init__(self, volumes: Sequence[Mapping[str, Any]], patch_size: Sequence[int]) -> None:
        self.volumes, self.patch_size = volumes, tuple(patch_size)
        self.flat = len(self.patch_size) == 2
        self.classes: list[str] = list(volumes[0]["classes"])
        depths = [int(volume["label"].shape[-1]) if self.flat else 1 for volume in volumes]
        self.index = [(i, z) for i, depth in enumerate(depths) for z in range(depth)]

    def contains(self) -> Tensor:
        rows = []
        for volume in self.volumes:
            label = volume["label"][0]
            found = torch.stack([label == k for k in range(1, len(self.classes) + 1)], -1)
            rows.append(found.flatten(0, 1).any(0) if self.flat else found.flatten(0, 2).any(0)[None])
        return torch.cat(rows)

    def images(self) -> Sequence[Tensor]:
        return _Windows(self)

    def volume(self, k: int) -> int:
        return self.index[k][0]

    def sample(self, k: int, whole: bool) -> dict[str, Any]:
        i, z = self.index[k]
        volume, part = self.volumes[i], self.flat and not whole
        names = ("image", "label")
        arrays = {name: volume[name][..., z : z + 1] if part else volume[name] for name in names}
        return {**volume, **arrays, **({"slice": z} if part else {})}


class _Windows(Sequence[Tensor]):
    def __init__(self, candidates: SliceCandidates) -> None:
        self.candidates = candidates

    def __len__(self) -> int:
        return len(self.candidates.index)

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        sample = self.candidates.sample(k, whole=False)
        size = self.candidates.patch_size
        places = sample["label"][0].nonzero()[:, : len(size)].double()
        box = [slice(None)]
        for axis, (n, length) in enumerate(zip(sample["label"].shape[1:], size, strict=False)):
            middle = float(places[:, axis].mean()) if len(places) else (n - 1) / 2
            start = min(max(round(middle - (length - 1) / 2), 0), n - length)
            box.append(slice(start, start + length))
        image: Tensor = sample["image"][tuple(box)]
        return image.squeeze(-1) if self.candidates.flat else image


class ItemCandidates:
    """Samples of any data set of mappings, just as it gives them, of which the ``image`` is a tensor.

    Without names of classes, or without a ``label`` in the samples, they are all of one class.

    Args:
        items: The samples.
        classes: Names of the label values 1, 2, …

    Raises:
        ValueError: If a sample is no mapping with an image, or a whole volume is asked for.

    Example:
        >>> samples = ItemCandidates([{"image": torch.ones(1, 2, 2), "label": torch.tensor(1)}], ["bone", "fat"])
        >>> samples.contains().tolist()
        [[True, False]]
    """

    def __init__(self, items: Sequence[Any], classes: Sequence[str]) -> None:
        self.items = items
        first = items[0]
        if not isinstance(first, Mapping) or not isinstance(first.get("image"), Tensor):
            raise ValueError(
                f"A memory keeps samples that are mappings with a tensor `image`, and the data module has"
                f" {type(first).__name__}s. Let its data set return such mappings, or give it `candidates()`."
            )
        self.labelled = bool(classes) and "label" in first
        self.classes = list(classes) if self.labelled else ["samples"]
        self.patients = list(dict.fromkeys(str(items[k].get("patient", k)) for k in range(len(items))))

    def contains(self) -> Tensor:
        if not self.labelled:
            return torch.ones(len(self.items), 1, dtype=torch.bool)
        values = range(1, len(self.classes) + 1)
        labels = (torch.as_tensor(self.items[k]["label"]) for k in range(len(self.items)))
        return torch.tensor([[bool((label == value).any()) for value in values] for label in labels])

    def images(self) -> Sequence[Tensor]:
        return [self.items[k]["image"] for k in range(len(self.items))]

    def volume(self, k: int) -> int:
        return self.patients.index(str(self.items[k].get("patient", k)))

    def sample(self, k: int, whole: bool) -> dict[str, Any]:
        if whole:
            raise ValueError("A budget of whole volumes needs a data module with `candidates()`. Limit `samples`.")
        return dict(self.items[k])


def candidate_indices(candidates: Sequence[int] | Tensor | None, m: int, device: torch.device) -> Tensor:
    """Return the candidates in ascending order, or all of ``m``; raise unless they are a set of indices below ``m``."""
    if candidates is None:
        return torch.arange(m, device=device)
    indices = torch.as_tensor(candidates, dtype=torch.int64, device=device).flatten()
    unique: Tensor = indices.unique()
    if len(unique) < len(indices):
        raise ValueError(f"`candidates` names {len(indices) - len(unique)} samples twice; name each once.")
    if len(unique) and (unique[0] < 0 or unique[-1] >= m):
        raise ValueError(f"`candidates` must lie in [0, {m}), got {int(unique[0])} to {int(unique[-1])}.")
    return unique
