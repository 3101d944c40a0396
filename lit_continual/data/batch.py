"""What a sample and a batch hold, part by part."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor
from torch.utils.data import default_collate

Matrix = tuple[tuple[float, ...], ...]


class Sample(TypedDict, total=False):
    """One training sample, or one whole volume to evaluate on.

    Geometry is plain Python numbers: a device without float64 and a run in bfloat16 would spoil tensors.

    Attributes:
        image: ``(C, *spatial)`` float32, preprocessed.
        label: ``(1, *spatial)`` uint8 with 1, 2, … for ``classes`` and 0 elsewhere; of a volume to evaluate on, in the
            grid of its file.
        classes: The names of the label values 1, 2, …; none for a sample whose label is not to be trained on.
        annotated: ``(1, *spatial)``, where the label is known, of a volume that is annotated in part. To train on, the
            loss is that of these voxels; of a volume to evaluate on, they were shown to the network, and the others
            are scored.
        patient: Whose it is.
        origin: ``"new"`` or ``"exemplar"``, as soon as there are exemplars.
        path: File of the image, or of its first channel. This and what follows is of whole volumes.
        affine: Of ``image``, four by four, in mm.
        source_affine: Of the file's grid, four by four, in mm.
        source_shape: Voxels of the file's grid along each axis.
        spacing: Voxel size of the file's grid along each axis, in mm.
        padding: There, and true, in the volume that a rank without one of its own goes through, so that all ranks take
            part in what they do together. It is another rank's, and is not to be scored.
    """

    image: Tensor
    label: Tensor
    classes: tuple[str, ...]
    annotated: Tensor
    patient: str
    origin: str
    path: str
    affine: Matrix
    source_affine: Matrix
    source_shape: tuple[int, ...]
    spacing: tuple[float, ...]
    padding: bool


class Batch(TypedDict, total=False):
    """Samples together: the parts of :class:`Sample`, tensors with a first axis B, all others as a list of length B."""

    image: Tensor
    label: Tensor
    classes: list[tuple[str, ...]]
    annotated: Tensor
    patient: list[str]
    origin: list[str]
    path: list[str]
    affine: list[Matrix]
    source_affine: list[Matrix]
    source_shape: list[tuple[int, ...]]
    spacing: list[tuple[float, ...]]
    padding: list[bool]


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch: tensors, also in mappings, are stacked as torch does, and of all other parts there is a list.

    Example:
        >>> import torch
        >>> collate([{"image": torch.ones(2), "classes": ("a", "b")}, {"image": torch.zeros(2), "classes": ()}])
        {'image': tensor([[1., 1.],
                [0., 0.]]), 'classes': [('a', 'b'), ()]}
    """
    parts = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {
        name: default_collate(part) if isinstance(part[0], (Tensor, Mapping)) else part for name, part in parts.items()
    }


def class_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return the class names of a sample, also where a loader or an old file gives them as one string with commas.

    Example:
        >>> class_names("humerus,scapula"), class_names(""), class_names(["bone, left"])
        (('humerus', 'scapula'), (), ('bone, left',))
    """
    return tuple(given.split(",") if given else ()) if isinstance(given, str) else tuple(given)


def names_of_samples(batch: Batch, default: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the class names of each sample, ``default`` in a batch that says nothing of ``classes``.

    Raises:
        ValueError: If they are not one group of different names a sample.
    """
    size = len(batch["label"])
    found = [class_names(given) for given in batch.get("classes", [tuple(default)] * size)]
    if len(found) != size or any(len(set(names)) < len(names) for names in found):
        raise ValueError(
            f"`classes` of a batch of {size} samples are {batch['classes']}. Give each sample its own names, as a"
            " DataLoader with `collate_fn=lit_continual.data.collate` does."
        )
    return found
