"""One simulated PET study: a patient, an acquisition, and its reconstructions at several scan times."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lit_continual.data.pet_phantom import pet_phantom
from lit_continual.data.pet_scanner import RECONSTRUCTIONS, PetScanner, split_counts

#: Seconds a bed of the paper's noise-adaptive training, and of its targets.
SCAN_TIMES, FULL_TIME = (30, 45, 60, 90, 120, 180), 600


def pet_study(
    seed: int,
    bmi: Literal["low", "high"] = "low",
    version: str = "v2",
    seconds: Sequence[int] = SCAN_TIMES,
    realisations: int = 0,
    size: int = 96,
    depth: int = 24,
    cache: str | Path | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Simulate an acquisition of 600 s a bed, and reconstruct it whole and in parts of its counts.

    The acquisition does not depend on the version, so that v1 and v2 see the same counts. Shorter scans keep each
    count by chance, as list-mode data are subsampled; realisations divide all of them among each other.

    Args:
        seed: The patient and the noise.
        bmi: As in :func:`~lit_continual.data.pet_phantom.pet_phantom`.
        version: A key of ``RECONSTRUCTIONS``.
        seconds: Scan times to reconstruct, each up to 600.
        realisations: Independent realisations of equal time to reconstruct.
        size: Pixels a side.
        depth: Slices.
        cache: Folder where the study is kept, and looked up first.

    Returns:
        In SUV, slices first: ``truth`` and ``full`` ``(D, H, W)``, ``seconds`` ``(T, D, H, W)``, ``realisations``
        ``(R, D, H, W)``; and the masks ``liver``, ``bladder`` and ``lesion`` ``(D, H, W)``, 0 or 1.

    Raises:
        ValueError: If there is no such version, or a scan time is not in (0, 600].

    Example:
        >>> study = pet_study(0, seconds=[60], size=32, depth=8)
        >>> study["full"].shape, study["seconds"].shape
        ((8, 32, 32), (1, 8, 32, 32))
    """
    if version not in RECONSTRUCTIONS:
        raise ValueError(f"There is no reconstruction {version!r}: take one of {', '.join(RECONSTRUCTIONS)}.")
    if any(not 0 < s <= FULL_TIME for s in seconds):
        raise ValueError(f"`seconds` must lie in (0, {FULL_TIME}], got {list(seconds)}.")
    times = "-".join(map(str, seconds))
    path = Path(cache, f"{version}_{bmi}_{seed}_{size}x{depth}_{times}s_{realisations}r.npz") if cache else None
    if path is not None and path.exists():
        with np.load(path) as file:
            return dict(file)
    study = _simulate(seed, bmi, version, seconds, realisations, size, depth)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **study)  # type: ignore[arg-type]
        partial.replace(path)  # a run that is stopped leaves no half of a study
    return study


def _simulate(
    seed: int,
    bmi: Literal["low", "high"],
    version: str,
    seconds: Sequence[int],
    realisations: int,
    size: int,
    depth: int,
) -> dict[str, NDArray[np.float32]]:
    phantom = pet_phantom(seed, bmi, size, depth)
    scanner, how = PetScanner(size, phantom.pixel), RECONSTRUCTIONS[version]
    slices: dict[str, list[NDArray[np.float64]]] = {"full": [], "seconds": [], "realisations": []}
    for z, (activity, attenuation) in enumerate(zip(phantom.activity, phantom.attenuation, strict=True)):
        rng = np.random.default_rng([seed, bmi == "high", z])
        counts = scanner.counts(activity, attenuation, FULL_TIME, rng)
        thinned = [rng.binomial(counts.astype(np.int64), s / FULL_TIME).astype(np.float64) for s in seconds]
        parts = split_counts(counts, realisations, rng) if realisations else []
        times = [FULL_TIME, *seconds, *[FULL_TIME / realisations for _ in parts]]
        images = [
            scanner.reconstruct(c, attenuation, t, how) for c, t in zip([counts, *thinned, *parts], times, strict=True)
        ]
        slices["full"].append(images[0])
        slices["seconds"].append(np.reshape(images[1 : 1 + len(thinned)], (-1, size, size)))
        slices["realisations"].append(np.reshape(images[1 + len(thinned) :], (-1, size, size)))
    stacked = {name: np.stack(some, axis=-3).astype(np.float32) for name, some in slices.items()}
    masks = {name: mask.astype(np.float32) for name, mask in phantom.masks.items()}
    return {"truth": phantom.activity, **stacked, **masks}
