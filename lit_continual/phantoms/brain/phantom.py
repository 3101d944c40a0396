"""A seeded phantom of brain tumours in four MR sequences: gliomas to learn from, metastases to learn next."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_continual.phantoms.brain.tissues import brain_tissues
from lit_continual.phantoms.folder import write_phantom
from lit_continual.phantoms.voxels import Spacing, Triple, mr_signal

VERSION = 1  # of the drawing: another one makes other images from the same seed
SIZE: Triple = (96, 112, 20)
SPACING: Spacing = (1.8, 1.8, 6.0)
KINDS = ("glioma", "metastasis")
LABELS = {"0": "background", "1": "necrosis", "2": "oedema", "3": "enhancing"}
#: Signal of each of ``TISSUES`` in each sequence.
SIGNALS = {
    "FLAIR": (0.0, 0.55, 0.06, 0.10, 0.55, 0.42, 0.85, 0.10, 0.32, 0.92, 0.66),
    "T1": (0.0, 0.90, 0.06, 0.14, 0.50, 0.70, 0.56, 0.25, 0.24, 0.45, 0.46),
    "T1c": (0.0, 0.92, 0.06, 0.14, 0.52, 0.72, 0.57, 1.15, 0.25, 0.46, 1.10),
    "T2": (0.0, 0.55, 0.06, 1.05, 0.60, 0.42, 0.75, 0.12, 0.92, 0.86, 0.62),
}


def brain_subject(
    seed: int, kind: str = "glioma", size: Triple = SIZE, spacing: Spacing = SPACING
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Scan one patient in FLAIR, T1, T1 with contrast agent, and T2.

    The signal of a sequence is that of :func:`~lit_continual.phantoms.voxels.mr_signal`. What is bright without being
    tumour: fat and, with contrast agent, the sagittal sinus; in FLAIR, caps of the ventricles.

    Args:
        seed: The patient; another one for each kind.
        kind: ``"glioma"`` or ``"metastasis"``.
        size: Voxels to the right, front and top.
        spacing: Millimetres to the right, front and top.

    Returns:
        Image ``(X, Y, Z, 4)`` and labels ``(X, Y, Z)``, in RAS orientation. Labels are those of BraTS 2023: 1 necrosis,
        2 oedema, 3 enhancing (4 until 2022). Its regions are whole tumour 1 + 2 + 3, core 1 + 3, enhancing 3; MONAI's
        ``ConvertToMultiChannelBasedOnBratsClasses(et_label=3)`` makes them.

    Raises:
        ValueError: if the kind is unknown.

    Example:
        >>> image, label = brain_subject(0, "glioma", size=(40, 48, 10), spacing=(4.5, 4.5, 12.0))
        >>> image.shape, image.dtype.name, np.unique(label).tolist()
        ((40, 48, 10, 4), 'int16', [0, 1, 2, 3])
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
    shares, label = brain_tissues(np.random.default_rng([0, KINDS.index(kind), seed]), kind, size, spacing)
    rng = np.random.default_rng([1, KINDS.index(kind), seed])
    channels = [mr_signal(rng, shares, signals, bias=0.15, noise=0.03) for signals in SIGNALS.values()]
    return np.stack(channels, axis=-1).astype(np.int16), label


def write_brain_phantom(
    folder: Path | str, kind: str, subjects: int, seed: int, size: Triple = SIZE, spacing: Spacing = SPACING
) -> Path:
    """Write phantoms as a Decathlon data set, or reuse the one that is there; see ``write_phantom``.

    Images have their four sequences along the fourth axis, in the order of ``modality``; the other arguments are those
    of :func:`brain_subject`.
    """
    modality = {str(i): sequence for i, sequence in enumerate(SIGNALS)}
    description = {"name": f"Brain phantom, {kind}", "modality": modality, "labels": LABELS}
    recipe = {"version": VERSION, "kind": kind, "subjects": subjects, "seed": seed}
    recipe |= {"size": list(size), "spacing": list(spacing)}
    return write_phantom(folder, description, recipe, kind, lambda p: brain_subject(p, kind, size, spacing))
