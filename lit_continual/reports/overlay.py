"""One slice with its truth and a prediction, as the stream leaves it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_continual.files.npz import Npz
from lit_continual.files.printing import printable_errors
from lit_continual.files.whole_files import in_one_line

#: Kinds of dtype and axes of each array of a slice.
_KINDS = {"image": ("fiu", 2), "truth": ("biu", 3), "prediction": ("biu", 3), "spacing": ("fiu", 1)}
_KINDS |= {"classes": ("U", 1), "patient": ("U", 0), "slice": ("iu", 0)}


@dataclass(frozen=True, eq=False)
class Overlay:
    """One slice: image ``(H, W)``, truth and prediction ``(K, H, W)``, spacing of rows and columns in mm."""

    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    classes: tuple[str, ...]
    patient: str
    spacing: tuple[float, float]
    slice: int
    volume: str = ""  # its file, as in `cases.csv`

    @property
    def whose(self) -> tuple[str, str]:
        """Patient and volume."""
        return self.patient, self.volume

    @classmethod
    def load(cls, path: Path) -> "Overlay":
        """Read the slice of the first case of a ``.npz``; errors as in :meth:`load_all`."""
        return cls._load(path, 1)[0]

    @classmethod
    def load_all(cls, path: Path) -> "list[Overlay]":
        """Read the slices of all cases of a ``.npz``; the names of all but the first are numbered.

        Raises:
            ValueError: If the file is damaged or its shapes disagree.
        """
        return cls._load(path, None)

    @classmethod
    @printable_errors()
    def _load(cls, path: Path, most: int | None) -> "list[Overlay]":
        """Read the first ``most`` slices, or all of them."""
        try:
            archive = Npz(path)
            ends = ["", *(f"_{n}" for n in range(1, sum(name.startswith("image") for name in archive.shapes)))]
            found = []
            for end in ends[:most]:
                archive.require({name + end: kind for name, kind in _KINDS.items()})
                keys = [*_KINDS, *(["volume"] if f"volume{end}" in archive.shapes else [])]
                found.append(cls._read({key: archive.read(key + end) for key in keys}))
        except ValueError as error:
            raise ValueError(
                f"`{path}` cannot be read ({in_one_line(error)}); delete it, and the report leaves it out."
            ) from error
        for one in found:
            fits = one.truth.shape == one.prediction.shape == (len(one.classes), *one.image.shape)
            if not fits or not one.image.size or not all(isfinite(mm) and mm > 0 for mm in one.spacing):
                raise ValueError(
                    f"`{path}` has an image of shape {one.image.shape}, truth {one.truth.shape}, prediction"
                    f" {one.prediction.shape} and spacing {one.spacing} mm, which do not fit; delete it, and the report"
                    " leaves it out."
                )
        return found

    @classmethod
    def _read(cls, stored: Mapping[str, NDArray[Any]]) -> "Overlay":
        rows, columns = (float(mm) for mm in stored["spacing"])  # a ValueError, if they are not two
        return cls(
            image=np.asarray(stored["image"], dtype=np.float32),
            truth=np.asarray(stored["truth"]) > 0,
            prediction=np.asarray(stored["prediction"]) > 0,
            classes=tuple(map(str, stored["classes"])),
            patient=str(stored["patient"]),
            spacing=(rows, columns),
            slice=int(stored["slice"]),
            volume=str(stored.get("volume", "")),
        )

    def close_up(self) -> "Overlay":
        """The surroundings of its truth: half its size on each side, at least 30 mm; all of it without a truth."""
        spans = [np.flatnonzero(self.truth.any((0, 2))), np.flatnonzero(self.truth.any((0, 1)))]
        if not self.truth.any():
            return self
        margins = [ceil(max(len(span) / 2, 30 / mm)) for span, mm in zip(spans, self.spacing, strict=True)]
        rows, columns = (
            slice(max(span[0] - margin, 0), span[-1] + margin + 1) for span, margin in zip(spans, margins, strict=True)
        )
        cut = np.s_[..., rows, columns]
        return replace(self, image=self.image[cut], truth=self.truth[cut], prediction=self.prediction[cut])

    @property
    def size(self) -> tuple[float, float]:
        """Height and width in mm."""
        return self.image.shape[0] * self.spacing[0], self.image.shape[1] * self.spacing[1]
