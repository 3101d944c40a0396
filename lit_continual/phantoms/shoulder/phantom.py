"""A seeded phantom of shoulder MR: humerus and scapula in two Dixon contrasts, made in seconds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_continual.phantoms.folder import write_phantom
from lit_continual.phantoms.shoulder.tissues import shoulder_tissues
from lit_continual.phantoms.voxels import Spacing, Triple, mr_signal

SIZE: Triple = (96, 96, 24)
SPACING: Spacing = (1.8, 1.8, 6.0)
LABELS = {"0": "background", "1": "humerus", "2": "scapula"}
VERSION = 1  # raise it when the pictures change, so that no cached folder passes for the new ones


@dataclass(frozen=True)
class Contrast:
    """How a sequence shows the tissues, in the order of ``TISSUES``, and how it spoils the picture."""

    signals: tuple[float, ...]
    bias: float
    noise: float


CONTRASTS = {
    "fat": Contrast((0.0, 0.25, 1.0, 0.14, 0.05, 0.92, 0.62, 0.05, 0.05, 0.03), bias=0.22, noise=0.035),
    "water": Contrast((0.0, 0.55, 0.10, 0.60, 0.06, 0.13, 0.32, 0.80, 0.85, 0.06), bias=0.30, noise=0.030),
}


def shoulder_subject(
    seed: int, contrast: str = "fat", size: Triple = SIZE, spacing: Spacing = SPACING
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Scan one left shoulder.

    The signal is that of :func:`~lit_continual.phantoms.voxels.mr_signal`. Anatomy and contrast have separate random
    streams, so a seed is the same patient in every contrast.

    Args:
        seed: The patient.
        contrast: ``"fat"`` or ``"water"``, the two images of a Dixon sequence.
        size: Voxels to the right, front and top.
        spacing: Millimetres to the right, front and top.

    Returns:
        Image and labels (1 humerus, 2 scapula), both ``(X, Y, Z)``, in RAS orientation.

    Raises:
        ValueError: If the contrast is unknown, or size and spacing are not three positive numbers each.

    Example:
        >>> image, label = shoulder_subject(0, "water", size=(32, 32, 12), spacing=(5.4, 5.4, 12.0))
        >>> image.shape, image.dtype.name, np.unique(label).tolist()
        ((32, 32, 12), 'int16', [0, 1, 2])
    """
    if contrast not in CONTRASTS:
        raise ValueError(f"`contrast` must be one of {', '.join(CONTRASTS)}, got {contrast!r}.")
    if len(size) != 3 or len(spacing) != 3 or min(*size, *spacing) <= 0:
        raise ValueError(f"`size` and `spacing` must be three positive numbers each, got {size} and {spacing}.")
    shares, label = shoulder_tissues(np.random.default_rng([0, seed]), size, spacing)
    look = CONTRASTS[contrast]
    rng = np.random.default_rng([1 + list(CONTRASTS).index(contrast), seed])
    return mr_signal(rng, shares, look.signals, look.bias, look.noise).astype(np.int16), label


def write_shoulder_phantom(
    folder: Path | str, contrast: str, subjects: int, seed: int, size: Triple = SIZE, spacing: Spacing = SPACING
) -> Path:
    """Write phantoms as a Decathlon data set, or reuse the one that is there; see ``write_phantom``.

    The same seed means the same patients, also by name, in every contrast; the other arguments are those of
    :func:`shoulder_subject`.
    """
    description = {"name": "Shoulder phantom", "modality": {"0": f"MR {contrast}"}, "labels": LABELS}
    recipe = {"version": VERSION, "contrast": contrast, "subjects": subjects, "seed": seed}
    recipe |= {"size": list(size), "spacing": list(spacing)}
    return write_phantom(
        folder, description, recipe, "shoulder", lambda p: shoulder_subject(p, contrast, size, spacing)
    )
