"""One simulated PET study: a patient, an acquisition, and its reconstructions at several scan times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_continual.denoising.pet_scanner import RECONSTRUCTIONS, PetScanner, split_counts
from lit_continual.files.npz import write_npz
from lit_continual.files.whole_files import replaced

#: Seconds a bed of the paper's noise-adaptive training, of its targets, and of its noise realisations.
SCAN_TIMES, FULL_TIME, REALISATION_TIME = (30, 45, 60, 90, 120, 180), 600, 60

LAYOUT = 3  # of what a study holds and how it is made, in the name of its file

Study = dict[str, NDArray[np.float32]]
Options = tuple[str, Sequence[int], int, int]  # version, scan times, realisations and seconds each, as below

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

    activity: NDArray[np.float32]
    attenuation: NDArray[np.float32]
    masks: dict[str, NDArray[np.bool_]]
    pixel: float


def simulate_study(
    phantom: PetPhantom,
    seed: Sequence[int],
    version: str = "v2",
    seconds: Sequence[int] = SCAN_TIMES,
    realisations: int = 0,
    each: int = REALISATION_TIME,
) -> Study:
    """Scan a phantom for 600 s a bed, and reconstruct the acquisition whole and in parts of its counts.

    The acquisition does not depend on the version, so that v1 and v2 see the same counts. Shorter scans keep each
    count by chance, as list-mode data are subsampled; realisations are disjoint parts of them, and so independent.

    Args:
        phantom: Who is scanned.
        seed: Seed of the noise.
        version: A key of ``RECONSTRUCTIONS``.
        seconds: Scan times to reconstruct, each up to 600.
        realisations: Independent realisations to reconstruct.
        each: Seconds of a realisation, which divide 600 s.

    Returns:
        In SUV, slices first: ``truth`` and ``full`` ``(D, H, W)``, ``seconds`` ``(T, D, H, W)``, ``realisations``
        ``(R, D, H, W)``; the phantom's masks ``(D, H, W)``, 0 or 1; and ``pixel``, the side of one in mm.

    Raises:
        ValueError: If there is no such version, a scan time is not in (0, 600], or the realisations are longer than the
            acquisition.
    """
    if version not in RECONSTRUCTIONS:
        raise ValueError(f"There is no reconstruction {version!r}: take one of {', '.join(RECONSTRUCTIONS)}.")
    if any(not 0 < s <= FULL_TIME for s in seconds):
        raise ValueError(f"`seconds` must lie in (0, {FULL_TIME}], got {list(seconds)}.")
    if each < 1 or FULL_TIME % each or not 0 <= realisations * each <= FULL_TIME:
        raise ValueError(
            f"{realisations} realisations of {each} s cannot be had from {FULL_TIME} s: take fewer, or seconds that"
            f" divide {FULL_TIME}."
        )
    size = phantom.activity.shape[-1]
    scanner, how = PetScanner(size, phantom.pixel), RECONSTRUCTIONS[version]
    slices: dict[str, list[NDArray[np.float64]]] = {"full": [], "seconds": [], "realisations": []}
    for z, (activity, attenuation) in enumerate(zip(phantom.activity, phantom.attenuation, strict=True)):
        rng = np.random.default_rng([*seed, z])
        counts = scanner.counts(activity, attenuation, FULL_TIME, rng)
        thinned = [rng.binomial(counts.astype(np.int64), s / FULL_TIME).astype(np.float64) for s in seconds]
        parts = split_counts(counts, FULL_TIME // each, rng)[:realisations] if realisations else []
        times = [FULL_TIME, *seconds, *[each] * realisations]
        images = [
            scanner.reconstruct(c, attenuation, t, how) for c, t in zip([counts, *thinned, *parts], times, strict=True)
        ]
        slices["full"].append(images[0])
        slices["seconds"].append(np.reshape(images[1 : 1 + len(thinned)], (-1, size, size)))
        slices["realisations"].append(np.reshape(images[1 + len(thinned) :], (-1, size, size)))
    stacked = {name: np.stack(some, axis=-3).astype(np.float32) for name, some in slices.items()}
    masks = {name: mask.astype(np.float32) for name, mask in phantom.masks.items()}
    return {"truth": phantom.activity, **stacked, **masks, "pixel": np.asarray(phantom.pixel, np.float32)}


def kept(cache: str | Path | None, name: str, options: Options, simulate: Callable[[], Study]) -> Study:
    """Look a study up in a folder, or simulate it and keep it there; without a folder, simulate it."""
    if cache is None:
        return simulate()
    version, seconds, realisations, each = options
    path = Path(cache, f"{version}_{name}_{'-'.join(map(str, seconds))}s_{realisations}x{each}s_{LAYOUT}.npz")
    if not path.exists():
        study = simulate()
        with replaced(path) as temporary:
            write_npz(temporary, study)
    with np.load(path) as file:
        return dict(file)
