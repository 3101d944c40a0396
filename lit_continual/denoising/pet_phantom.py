"""What a PET scanner scans: activity, attenuation, and the masks of what is measured."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]

#: Linear attenuation of water at 511 keV in 1/mm.
WATER = 0.0096


@dataclass(frozen=True)
class PetPhantom:
    """A patient as a scanner sees one, seeded or real.

    Attributes:
        activity: SUV ``(D, H, W)``, slices first, from the abdomen's end up.
        attenuation: Linear attenuation at 511 keV in 1/mm, ``(D, H, W)``.
        masks: What is measured, such as ``lesion``, ``(D, H, W)``, boolean.
        pixel: Side of a pixel in mm.
    """

    activity: Volume
    attenuation: Volume
    masks: dict[str, NDArray[np.bool_]]
    pixel: float
