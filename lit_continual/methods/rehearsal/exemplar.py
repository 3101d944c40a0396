"""A training sample that is kept, as a file and an entry in the manifest of a memory."""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from reprlib import repr
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lit_continual.files.npz import Npz, write_npz
from lit_continual.files.plain_data import require_types, types_of
from lit_continual.files.whole_files import in_one_line


@dataclass(frozen=True)
class Exemplar:
    """What a manifest says of one exemplar.

    Args:
        experience: Which experience it is of.
        rank: Its place in the order in which the exemplars of the experience were picked.
        picked_for: Classes it was picked for, each with its place in the order of that class.
        source: The data set it comes from.
        patient: Whose it is.
        slice: Which slice along the last axis; ``None`` for a whole volume.
        classes: Classes in its label.
        score: What the policy had measured, such as the ``uncertainty`` of each class.
        why: Why it was kept, in words.
        values: What a batch says of it beside the arrays, such as ``classes`` and ``patient``.
        file: Name of its file, from its checksum.
        sha256: Checksum of the file.
        bytes: Size of the file.
    """

    experience: str
    rank: int
    picked_for: dict[str, int]
    source: str
    patient: str
    slice: int | None = None
    classes: list[str] = field(default_factory=list)
    score: dict[str, float] = field(default_factory=dict)
    why: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    sha256: str = ""
    bytes: int = 0

    @classmethod
    def read(cls, entry: Mapping[str, Any], manifest: Path) -> Self:
        """Make the exemplar of an entry.

        Raises:
            ValueError: If the entry lacks something, or something in it is not what it should be.
        """
        try:
            exemplar = cls(**{name: require_types(entry, {name: kind})[name] for name, kind in _FIELDS.items()})
            exemplar._require_its_own_file()
        except ValueError as error:
            raise ValueError(f"{manifest} has an entry with {in_one_line(error)}. Restore it from a copy.") from error
        return exemplar

    def _require_its_own_file(self) -> None:
        """Check that the name of the file leads nowhere else, and that the values are what a sample may have."""
        if not is_file_of_exemplar(self.file) or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"the file {repr(self.file)} and the checksum {repr(self.sha256)}")
        if not self.sha256.startswith(self.file.removesuffix(".npz")):
            raise ValueError(f"the file {self.file} and another checksum, {self.sha256}")
        require_types(self.values, {"classes": list[str] | str, "patient": str, "slice": int}, required=False)
        for name, value in self.values.items():
            if not _is_plain(tuple(value) if isinstance(value, list) else value):
                raise ValueError(f"`{name}` {repr(value)} among its values")

    def entry(self) -> dict[str, Any]:
        """Return what stands in the manifest."""
        return asdict(self)


def packed(sample: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the file of a sample's arrays, the same for the same arrays, and its strings, numbers and tuples.

    Example:
        >>> content, values = packed({"image": torch.ones(2), "classes": ("bone",), "slice": 3})
        >>> values
        {'classes': ['bone'], 'slice': 3}
        >>> unpacked(content, values)
        {'image': tensor([1., 1.]), 'classes': ('bone',), 'slice': 3}
    """
    arrays = {k: v.numpy(force=True) if isinstance(v, Tensor) else v for k, v in sample.items()}
    arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items() if isinstance(v, np.ndarray)}
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in sample.items() if _is_plain(v)}  # as JSON has it
    if lost := sample.keys() - arrays.keys() - values.keys():
        name = min(lost)
        raise ValueError(
            f"A memory keeps tensors, strings, numbers and tuples of them, and `{name}` of a sample is a"
            f" {type(sample[name]).__name__}."
        )
    buffer = io.BytesIO()
    write_npz(buffer, arrays)
    return buffer.getvalue(), values


def unpacked(content: bytes, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sample that was packed.

    Raises:
        ValueError: If the content is no archive of arrays, unpacks to more than it is, has the name of a value, or an
            image and a label that no data set gives.
    """
    archive = Npz(content, len(content))  # as nothing in it is compressed
    if clash := archive.shapes.keys() & values.keys():
        raise ValueError(f"{min(clash)!r} is an array and a value")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        arrays = {name: torch.from_numpy(archive.read(name)) for name in archive.shapes}
    except TypeError as error:  # of a dtype that torch does not know
        raise ValueError(str(error)) from error
    _require_learnable(arrays, plain.get("classes"))
    return {**arrays, **plain}


def _require_learnable(arrays: Mapping[str, Tensor], classes: Any) -> None:
    """Refuse an image and a label that would be learnt from as if they were right."""
    image, label = arrays.get("image"), arrays.get("label")
    for name, array in (("image", image), ("label", label)):
        if array is not None and not bool(array.isfinite().all()):
            raise ValueError(f"{name!r} is nan or infinite")
    if label is None or image is None or not isinstance(classes, tuple):
        return
    if label.shape[1:] != image.shape[1:]:
        raise ValueError(f"'label' has the shape {tuple(label.shape)}, and 'image' {tuple(image.shape)}")
    values = label.unique().tolist()
    if bad := [value for value in values if not (0 <= value <= len(classes) and value == int(value))]:
        raise ValueError(f"'label' has the value {bad[0]:g}, and {len(classes)} classes")


def is_file_of_exemplar(name: str) -> bool:
    """Whether a file is called as one of an exemplar is, which follows from its checksum."""
    return re.fullmatch(r"[0-9a-f]{32}\.npz", name) is not None


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, (str, int, float, type(None)))


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


_FIELDS = types_of(Exemplar)
