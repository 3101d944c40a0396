"""What every phantom is drawn with: smooth noise, and the share of a voxel that lies inside."""

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
