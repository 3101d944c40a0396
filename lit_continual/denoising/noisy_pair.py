"""Two independent noise realisations of one study, from whatever the study comes as."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_continual.data.case_lists.cases import Case, read_cases
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.data.volumes import load_case
from lit_continual.denoising.pet_scanner import RECONSTRUCTIONS, PetScanner, split_counts
from lit_continual.files.npz import Npz
from lit_continual.files.whole_files import in_one_line
from lit_continual.images.file_names import is_image, stem

LARGEST = 600  # pixels a side, of which the scanner's matrix has some GB
#: Kinds of dtype and axes of each array of an acquisition.
_KINDS = {"counts": ("fiu", 2), "attenuation": ("fiu", 3), "version": ("U", 0)}
_KINDS |= dict.fromkeys(("pixel", "thickness", "seconds"), ("fiu", 0))


@dataclass(frozen=True, eq=False)
class NoisyPair:
    """One study twice.

    Attributes:
        first: One half ``(D, H, W)``, slices first.
        second: The other.
        whole: What is to be denoised: the acquisition as a whole.
        affine: ``(4, 4)``, of the volume with slices last.
        name: Name of the study.
        files: All files that it was read from.
    """

    first: Tensor
    second: Tensor
    whole: Tensor
    affine: NDArray[np.float64]
    name: str
    files: tuple[Path, ...]


def read_noisy_pair(study: str | Path, seed: int = 0) -> NoisyPair:
    """Read two noise realisations with equal counts.

    * A folder, Decathlon list or CSV list of two or more images on one grid: realisations. Every other one goes into
      each half, which is their mean, as with frames of a list-mode acquisition.
    * An image with two or more frames along its fourth axis: the same.
    * An acquisition ``.npz``: ``counts`` ``(D, lines)`` as a :class:`~lit_continual.data.PetScanner` counts them,
      ``attenuation`` ``(D, H, W)`` in 1/mm, and the scalars ``pixel`` and ``thickness`` in mm, ``seconds`` and
      ``version``. Each count falls into one of two halves by chance, and both are reconstructed.

    Args:
        study: The path.
        seed: Which counts fall into which half.

    Raises:
        ValueError: If there is one realisation only, the images are not on one grid, or counts are negative or not
            whole; and as ``read_cases`` and ``load_case``.
    """
    path = Path(study)
    if path.suffix == ".npz":
        return _halves(path, seed)
    frames, affine, files = _frames(path)
    if len(frames) < 2:
        raise ValueError(
            f"{path} holds one noise realisation only, and Noise2Noise learns from two. Give two images in a folder,"
            " one image with a frame for each, or the acquisition as .npz."
        )
    even = frames[: len(frames) // 2 * 2]  # so that both halves have the same counts
    return NoisyPair(even[::2].mean(0), even[1::2].mean(0), frames.mean(0), affine, stem(path), files)


def _frames(path: Path) -> tuple[Tensor, NDArray[np.float64], tuple[Path, ...]]:
    """Frames ``(R, D, H, W)`` of a file or of several."""
    one = path.is_file() and is_image(path)
    cases = [Case((path,), None, stem(path))] if one else list(read_cases(path).cases)
    loaded = [load_case(case, Preprocessing(orientation=None, normalise=())) for case in cases]
    for case, volume in zip(cases, loaded, strict=True):
        same = volume["image"].shape[1:] == loaded[0]["image"].shape[1:]
        if not same or not np.allclose(volume["affine"], loaded[0]["affine"], rtol=1e-5, atol=1e-3):
            raise ValueError(
                f"{case.images[0]} and {cases[0].images[0]} are not on one grid, as two noise realisations of a study"
                " are. Resample one onto the other."
            )
    frames = torch.cat([volume["image"] for volume in loaded]).movedim(-1, 1)
    return frames, np.array(loaded[0]["affine"]), tuple(file for case in cases for file in case.images)


def _halves(path: Path, seed: int) -> NoisyPair:
    try:
        archive = Npz(path)
        archive.require(_KINDS)
        counts, attenuation = (archive.read(name).astype(np.float64) for name in ("counts", "attenuation"))
        pixel, thickness, seconds = (float(archive.read(name)) for name in ("pixel", "thickness", "seconds"))
        how = RECONSTRUCTIONS[str(archive.read("version"))]
        if not 0 < min(pixel, thickness, seconds) <= max(pixel, thickness, seconds) < np.inf:
            raise ValueError(f"a pixel of {pixel} mm, slices of {thickness} mm, {seconds} s")
        square = 0 < attenuation.shape[1] == attenuation.shape[2] <= LARGEST
        if not 0 < len(counts) == len(attenuation) or not square:
            raise ValueError(f"counts of shape {counts.shape}, attenuation of shape {attenuation.shape}")
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no acquisition ({in_one_line(error)}). It needs counts, attenuation, pixel,"
            " thickness, seconds and version."
        ) from error
    scanner, rng = PetScanner(attenuation.shape[-1], pixel), np.random.default_rng(seed)
    volumes: list[list[NDArray[np.float64]]] = []
    for lines, water in zip(counts, attenuation, strict=True):
        try:
            parts = [(part, seconds / 2) for part in split_counts(lines, 2, rng)]
            volumes.append([scanner.reconstruct(c, water, t, how) for c, t in [*parts, (lines, seconds)]])
        except ValueError as error:
            raise ValueError(f"{path} cannot be split into halves: {error}") from error
    first, second, whole = torch.from_numpy(np.stack(volumes, 1)).float()
    affine = np.diag([pixel, pixel, thickness, 1.0])
    return NoisyPair(first, second, whole, affine, path.stem, (path,))
