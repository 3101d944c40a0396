"""What phantoms are drawn with: smooth noise, the share of a voxel that lies inside, and the signal of a scan."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float32]
Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


def smooth_noise(rng: Generator, shape: Triple, knots: Triple) -> Array:
    """Normal noise on a grid of ``knots``, interpolated over ``shape`` by cubic B-splines; its power is about 1."""
    noise = rng.standard_normal([k + 3 for k in knots], dtype=np.float32)
    for n, k in zip(shape, knots, strict=True):
        x = np.abs(np.linspace(1, k, n)[:, None] - np.arange(k + 3))
        weights = np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.clip(2 - x, 0, None) ** 3 / 6)
        weights /= np.sqrt(np.mean(np.sum(weights**2, axis=1)))
        noise = np.tensordot(noise, weights.astype(np.float32), axes=(0, 1))
    return noise


def coverage(distance: Array, edge: float) -> Array:
    """Share of a voxel of width ``edge`` that lies inside: 1/2 on the surface."""
    share: Array = np.clip(0.5 - distance / edge, 0, 1)
    return share


def mr_signal(
    rng: Generator, shares: Array, signals: Sequence[float], bias: float, noise: float
) -> NDArray[np.float64]:
    """Signal of an MR scan, Rician: ``|b · Σ_t s_t f_t + n|``, on a scale of its own.

    Args:
        rng: the scan's stream.
        shares: ``f`` of each tissue in each voxel, ``(X, Y, Z, T)``.
        signals: ``s`` of each tissue; a subject's differ from them by 6 % or so.
        bias: logarithm of the bias field ``b``, which is smooth, one standard deviation.
        noise: about the standard deviation of the complex normal noise ``n``.
    """
    seen = (np.array(signals) * rng.normal(1, 0.06, len(signals))).astype(np.float32)
    clean = shares @ seen * np.exp(bias * smooth_noise(rng, shares.shape[:3], (3, 3, 3)))
    n = rng.normal(0, noise * rng.uniform(0.7, 1.4), (2, *shares.shape[:3]))
    image: NDArray[np.float64] = np.hypot(clean + n[0], n[1]) * rng.uniform(200, 1200)
    return image
