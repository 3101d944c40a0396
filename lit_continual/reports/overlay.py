"""One slice with its truth and a prediction, as the stream leaves it."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray


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

    @classmethod
    def load(cls, path: Path, number: int = 0) -> "Overlay":
        """Read the slice of a case from a ``.npz``, by default the first.

        Raises:
            ValueError: If the file is damaged or its shapes disagree.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {key: file[key + (f"_{number}" if number else "")] for key in cls.__dataclass_fields__}
                image = np.asarray(stored["image"], dtype=np.float32)
                truth, prediction = (np.asarray(stored[key]) > 0 for key in ("truth", "prediction"))
                classes, patient = tuple(map(str, stored["classes"])), str(stored["patient"])
                rows, columns = (float(mm) for mm in stored["spacing"])
                number = int(stored["slice"])
        except (OSError, KeyError, ValueError, TypeError, EOFError, BadZipFile) as error:
            raise ValueError(f"`{path}` cannot be read ({error}); delete it, and the report leaves it out.") from error
        if not truth.shape == prediction.shape == (len(classes), *image.shape) or min(rows, columns) <= 0:
            raise ValueError(
                f"`{path}` has an image of shape {image.shape}, truth {truth.shape}, prediction {prediction.shape} and"
                f" spacing {rows, columns} mm, which do not fit; delete it, and the report leaves it out."
            )
        return cls(image, truth, prediction, classes, patient, (rows, columns), number)

    @classmethod
    def load_all(cls, path: Path) -> "list[Overlay]":
        """Read the slices of all cases of a ``.npz``.

        Raises:
            ValueError: If the file is damaged or its shapes disagree.
        """
        first = cls.load(path)
        with np.load(path, allow_pickle=False) as file:
            count = sum(key.startswith("image") for key in file.files)
        return [first, *(cls.load(path, number) for number in range(1, count))]

    @property
    def size(self) -> tuple[float, float]:
        """Height and width in mm."""
        return self.image.shape[0] * self.spacing[0], self.image.shape[1] * self.spacing[1]
