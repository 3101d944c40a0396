"""The simulated PET study of a seeded patient."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lit_continual.denoising.pet_study import REALISATION_TIME, SCAN_TIMES, Study, kept, simulate_study
from lit_continual.phantoms.pet.phantom import pet_phantom


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
    """Simulate an acquisition of 600 s a bed of a phantom, and reconstruct it whole and in parts of its counts.

    Args:
        seed: The patient and the noise.
        bmi: As in :func:`~lit_continual.phantoms.pet.phantom.pet_phantom`.
        version: A key of ``RECONSTRUCTIONS``.
        seconds: Scan times to reconstruct, each up to 600.
        realisations: Independent realisations to reconstruct.
        size: Pixels a side.
        depth: Slices.
        cache: Folder where the study is kept, and looked up first.
        each: Seconds of a realisation.

    Returns:
        As :func:`simulate_study`, with the masks ``liver``, ``bladder`` and ``lesion``.

    Raises:
        ValueError: As :func:`simulate_study`.

    Example:
        >>> study = pet_study(0, seconds=[60], size=32, depth=8)
        >>> study["full"].shape, study["seconds"].shape
        ((8, 32, 32), (1, 8, 32, 32))
    """
    name = f"{bmi}_{seed}_{size}x{depth}"
    options = (version, seconds, realisations, each)
    return kept(
        cache,
        name,
        lambda: simulate_study(pet_phantom(seed, bmi, size, depth), [seed, bmi == "high"], *options),
        *options,
    )
