"""A whole-body phantom for FDG PET: activity, attenuation and organs, and a scan of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lit_continual.denoising.pet_study import (
    REALISATION_TIME,
    SCAN_TIMES,
    WATER,
    PetPhantom,
    Study,
    kept,
    simulate_study,
)

#: Uptake in SUV of what does not vary; Boellaard et al., EANM guidelines, have the liver near 2.
_UPTAKE = {"body": 0.7, "lung": 0.4, "heart": 2.5, "spine": 1.4, "liver": 2.1, "spleen": 1.8, "kidney": 3.0}
#: Linear attenuation at 511 keV in 1/mm.
_LUNG, _BONE = 0.0030, 0.0120


def require_room(size: int, depth: int) -> None:
    """Raise ``ValueError`` if organs have too few pixels or slices to be drawn in."""
    if size < 32 or depth < 8:
        raise ValueError(f"`size` must be at least 32 and `depth` at least 8, got {size} and {depth}.")


def pet_phantom(
    seed: int, bmi: Literal["low", "high"] = "low", size: int = 96, depth: int = 24, field_of_view: float = 480.0
) -> PetPhantom:
    """Make a whole-body phantom from ellipsoids, each patient with organs of their own size, place and uptake.

    A high BMI is a larger body, which attenuates more and so counts less; the uptake of the organs is the same. The
    masks are ``liver``, ``bladder`` and ``lesion``; the liver's is eroded, and without lesions.

    Args:
        seed: The patient.
        bmi: ``"low"``, below 23, or ``"high"``, above 28.
        size: Pixels a side of a slice.
        depth: Slices from the bladder to the top of the lungs, over 600 mm.
        field_of_view: Side of a slice in mm; large enough for a high BMI at its default.

    Raises:
        ValueError: If ``bmi`` is neither, or there are too few pixels or slices.

    Example:
        >>> phantom = pet_phantom(seed=0, size=48, depth=8)
        >>> phantom.activity.shape, sorted(phantom.masks)
        ((8, 48, 48), ['bladder', 'lesion', 'liver'])
    """
    if bmi not in ("low", "high"):
        raise ValueError(f"`bmi` must be 'low' or 'high', got {bmi!r}.")
    require_room(size, depth)
    rng = np.random.default_rng([seed, bmi == "high"])
    pixel = field_of_view / size
    axis = (np.arange(size) - (size - 1) / 2) * pixel
    z, y, x = np.meshgrid((np.arange(depth) + 0.5) * 600 / depth, axis, axis, indexing="ij")
    width = rng.uniform(150, 165) if bmi == "low" else rng.uniform(195, 215)  # half axes of the body in mm
    thick = width * (rng.uniform(0.62, 0.68) if bmi == "low" else rng.uniform(0.74, 0.8))

    def ellipsoid(
        centre: tuple[float, float, float], radii: tuple[float, float, float], vary: float = 0.06
    ) -> NDArray[np.bool_]:
        c = np.asarray(centre) + rng.normal(0, 4, 3)
        r = np.asarray(radii) * rng.uniform(1 - vary, 1 + vary, 3)
        inside = ((z - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 + ((x - c[2]) / r[2]) ** 2 <= 1
        return np.asarray(inside)

    body = (x / width) ** 2 + (y / thick) ** 2 <= 1
    organs = {
        "lung": ellipsoid((500, -10, -75), (120, 75, 55)) | ellipsoid((500, -10, 75), (120, 75, 55)),
        "heart": ellipsoid((450, -35, 20), (45, 40, 45)),
        "liver": ellipsoid((340, -10, -60), (75, 70, 75)),
        "spleen": ellipsoid((340, 35, 90), (40, 30, 25)),
        "kidney": ellipsoid((270, 45, -55), (45, 22, 22)) | ellipsoid((270, 45, 55), (45, 22, 22)),
        "spine": (x / 20) ** 2 + ((y - thick + 45) / 22) ** 2 <= 1,
    }
    bladder = ellipsoid((50, -30, 0), (45, 35, 42), vary=0.2)
    activity = np.where(body, _UPTAKE["body"], 0.0)
    attenuation = np.where(body, WATER, 0.0)
    for name, organ in organs.items():
        activity[organ & body] = _UPTAKE[name] * rng.uniform(0.9, 1.1)
        attenuation[organ & body] = {"lung": _LUNG, "spine": _BONE}.get(name, WATER)
    activity[bladder] = rng.uniform(12, 25)
    lesion = np.zeros_like(body)
    for centre in ((340, -15, -75), (480, 0, 75), (200, -20, 40), (420, 25, -60)):  # the first lies in the liver
        here = ellipsoid(centre, (14, rng.uniform(7, 10), rng.uniform(7, 10)))
        activity[here], lesion = rng.uniform(5, 9), lesion | here
    core = ((z - 340) / 55) ** 2 + ((y + 10) / 52) ** 2 + ((x + 60) / 56) ** 2 <= 1
    around = ((z - 340) / 30) ** 2 + ((y + 15) / 24) ** 2 + ((x + 75) / 24) ** 2 <= 1
    masks = {"liver": core & organs["liver"] & ~around & ~lesion, "bladder": bladder, "lesion": lesion}
    return PetPhantom(activity.astype(np.float32), attenuation.astype(np.float32), masks, pixel)


def pet_study(
    seed: int,
    bmi: Literal["low", "high"] = "low",
    version: str = "v2",
    seconds: Sequence[int] = SCAN_TIMES,
    realisations: int = 0,
    size: int = 96,
    depth: int = 24,
    cache: str | Path | None = None,
    each: int = REALISATION_TIME,
) -> Study:
    """Simulate the study of a seeded patient: :func:`pet_phantom` in :func:`simulate_study`.

    The seed is that of patient and noise; ``cache`` is a folder where the study is kept, and looked up first.

    Example:
        >>> study = pet_study(0, seconds=[60], size=32, depth=8)
        >>> study["full"].shape, study["seconds"].shape
        ((8, 32, 32), (1, 8, 32, 32))
    """
    name = f"{bmi}_{seed}_{size}x{depth}"
    options = (version, seconds, realisations, each)
    rng = [seed, bmi == "high"]
    return kept(cache, name, options, lambda: simulate_study(pet_phantom(seed, bmi, size, depth), rng, *options))
