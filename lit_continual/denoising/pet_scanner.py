"""A PET scanner in two dimensions: projection, counts, and reconstruction by OSEM."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

Array = NDArray[np.float64]

_FWHM = 2.354820045  # of a Gaussian, in standard deviations


@dataclass(frozen=True)
class Reconstruction:
    """How OSEM reconstructs.

    Attributes:
        psf: Width (FWHM) in mm of the resolution model; 0 models none.
        smoothing: Width in mm of a Gaussian on the finished image.
        iterations: Passes over all subsets.
        subsets: Subsets of the angles.
    """

    psf: float
    smoothing: float
    iterations: int = 4
    subsets: int = 9


#: The old protocol models a resolution that is worse than the scanner's, so that edges overshoot and noise is of a
#: coarse grain; the new one models the scanner's own.
RECONSTRUCTIONS = {"v1": Reconstruction(psf=9.0, smoothing=3.0), "v2": Reconstruction(psf=6.0, smoothing=3.0)}


class PetScanner:
    r"""Parallel-beam scanner: expected counts :math:`\bar y = t \, (a \odot A G x + b)` of a slice :math:`x`.

    :math:`A` is the projection, :math:`G` the scanner's resolution, :math:`a` the attenuation along each line and
    :math:`b` a uniform background of scattered and random coincidences. Reconstruction knows all of them but
    :math:`G`, for which it has a model.

    Args:
        size: Pixels a side of a slice.
        pixel: Side of a pixel in mm.
        angles: Directions over half a turn, a multiple of the subsets.
        resolution: True width (FWHM) of the point spread in mm.
        sensitivity: Counts a second, SUV and mm of line, with nothing in the way.
        background: Share of the background in the counts.

    Example:
        >>> scanner = PetScanner(size=32, pixel=8.0, angles=36)
        >>> disc = np.hypot(*np.mgrid[-15.5:16, -15.5:16]) < 8
        >>> counts = scanner.counts(disc * 2.0, disc * 0.0096, seconds=600, rng=np.random.default_rng(0))
        >>> image = scanner.reconstruct(counts, disc * 0.0096, 600, RECONSTRUCTIONS["v2"])
        >>> bool(abs(image[disc].mean() / 2.0 - 1) < 0.1)
        True
    """

    def __init__(
        self, size: int, pixel: float, angles: int = 90, resolution: float = 6.0,
        sensitivity: float = 2e-2, background: float = 0.3,
    ) -> None:  # fmt: skip
        self.size, self.pixel, self.angles = size, pixel, angles
        self.resolution, self.sensitivity, self.background = resolution, sensitivity, background
        self.system = _system_matrix(size, angles) * pixel

    def expected(self, activity: Array, attenuation: Array, seconds: float) -> Array:
        """Expected counts ``(angles * bins,)`` of a slice ``(H, W)`` in SUV under an attenuation in 1/mm."""
        lines = self._factors(attenuation, seconds) * (self.system @ self._blur(activity, self.resolution).ravel())
        return np.asarray(lines + self._background(lines))

    def counts(self, activity: Array, attenuation: Array, seconds: float, rng: np.random.Generator) -> Array:
        """One noisy acquisition."""
        return rng.poisson(self.expected(activity, attenuation, seconds)).astype(np.float64)

    def reconstruct(self, counts: Array, attenuation: Array, seconds: float, how: Reconstruction) -> Array:
        """Reconstruct a slice ``(H, W)`` in SUV from its counts.

        Raises:
            ValueError: If counts are negative or of another scanner, or the subsets do not divide the angles.
        """
        if counts.shape != (self.system.shape[0],) or not (counts >= 0).all():
            raise ValueError(
                f"`counts` must be {self.system.shape[0]} numbers that are not negative, got shape {counts.shape} and"
                f" a minimum of {counts.min():g}."
            )
        if self.angles % how.subsets:
            raise ValueError(f"{how.subsets} subsets do not divide {self.angles} angles.")
        factors = self._factors(attenuation, seconds)
        background = self._background(counts) / (1 + self.background)
        image = np.ones((self.size, self.size))
        bins = np.arange(len(counts)).reshape(self.angles, -1)
        rows = [bins[start :: how.subsets].ravel() for start in range(how.subsets)]
        parts = [(self.system[r], counts[r], factors[r]) for r in rows]
        norms = [self._blur(_image(a.T @ f, self.size), how.psf) for a, _, f in parts]
        for _ in range(how.iterations):
            for (matrix, measured, factor), norm in zip(parts, norms, strict=True):
                model = factor * (matrix @ self._blur(image, how.psf).ravel()) + background
                ratio = measured / np.maximum(model, 1e-9)
                image *= self._blur(_image(matrix.T @ (factor * ratio), self.size), how.psf) / np.maximum(norm, 1e-9)
        return self._blur(image, how.smoothing)

    def _factors(self, attenuation: Array, seconds: float) -> Array:
        return np.asarray(seconds * self.sensitivity * np.exp(-(self.system @ attenuation.ravel())))

    def _background(self, lines: Array) -> float:
        return float(self.background * lines.mean())

    def _blur(self, image: Array, fwhm: float) -> Array:
        if fwhm == 0:
            return image
        return np.asarray(ndimage.gaussian_filter(image, fwhm / _FWHM / self.pixel, mode="constant"))


def split_counts(counts: Array, parts: int, rng: np.random.Generator) -> list[Array]:
    """Bin an acquisition into independent realisations of equal time, which add up to it.

    Each count falls into one of the ``parts`` by chance, so that the parts of Poisson counts are independent and
    Poisson.

    Raises:
        ValueError: If ``parts`` is below 1 or a count is negative or not whole.
    """
    if parts < 1:
        raise ValueError(f"`parts` must be at least 1, got {parts}.")
    if not ((counts >= 0) & (counts == np.round(counts))).all():
        raise ValueError("Counts to split must be whole and not negative.")
    split = rng.multinomial(counts.astype(np.int64), np.full(parts, 1 / parts))
    return [split[:, part].astype(np.float64) for part in range(parts)]


def _image(values: Array, size: int) -> Array:
    return np.asarray(values).reshape(size, size)


@cache
def _system_matrix(size: int, angles: int) -> sparse.csr_matrix:
    """Length in pixels of each line in each pixel: a pixel's shadow falls on the two nearest bins."""
    axis = np.arange(size) - (size - 1) / 2
    y, x = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    bins = 2 * int(np.ceil(size * 0.75)) + 1
    pixels, rows, columns, weights = np.arange(size * size), [], [], []
    for angle in range(angles):
        theta = np.pi * angle / angles
        place = x * np.cos(theta) + y * np.sin(theta) + bins // 2
        low = np.floor(place).astype(int)
        for near, weight in ((low, 1 - (place - low)), (low + 1, place - low)):
            rows.append(angle * bins + near)
            columns.append(pixels)
            weights.append(weight)
    triples = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(triples, shape=(angles * bins, size * size))
