"""Solids as signed distances in mm: negative inside, zero on the surface, positive outside.

Points are float32 arrays ``(3, N)``, distances ``(N,)``.
"""

from collections.abc import Callable
from functools import wraps
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from lit_continual.phantoms.voxels import Array

BLOCK = 16384  # points that fit the cache together: three times as fast as all at once


def _blockwise(solid: Callable[..., Array]) -> Callable[..., Array]:
    @wraps(solid)
    def over_blocks(points: Array, *shape: ArrayLike) -> Array:
        exact = [np.asarray(part, np.float32) for part in shape]
        return np.concatenate([solid(points[:, i : i + BLOCK], *exact) for i in range(0, points.shape[1], BLOCK)])

    return over_blocks


@_blockwise
def ellipsoid(points: Array, centre: Array, radii: Array) -> Array:
    """Distance to an ellipsoid along the axes, to first order: ``k(k - 1)/|∇|`` with ``k = |(p - c)/r|``.

    Example:
        >>> ellipsoid(np.float32([[0, 5], [0, 0], [0, 0]]), (0, 0, 0), (3, 3, 3)).round(1).tolist()
        [-3.0, 2.0]
    """
    centre, radii = centre[:, None], radii[:, None]
    offset = (points - centre) / radii
    k = np.maximum(np.sqrt(np.einsum("ij,ij->j", offset, offset)), np.float32(1e-3))
    offset /= radii
    slope = np.maximum(np.sqrt(np.einsum("ij,ij->j", offset, offset)), np.float32(1e-3) / radii.max())
    distance: Array = np.maximum(k * (k - 1) / slope, (k - 1) * radii.min())
    return distance


@_blockwise
def tube(points: Array, path: Array) -> Array:
    """Distance to a chain of round cones along ``path``, rows ``(x, y, z, radius)``, at least two of them.

    Example:
        >>> tube(np.float32([[5], [0], [3]]), [(0, 0, 3, 1), (10, 0, 3, 3)]).tolist()
        [-2.0]
    """
    lifted = np.stack([*points, np.einsum("ij,ij->j", points, points), np.ones_like(points[0])])
    distance = np.full(points.shape[1], np.inf, np.float32)
    for start, end in pairwise(path):
        a, along, r = start[:3], end[:3] - start[:3], start[3]
        length = along @ along
        # one product gives how far along the segment a point lies, and its squared distance to the start
        onto, square = np.array([(*along, 0, -along @ a), (*(-2 * a), 1, a @ a)], np.float32) @ lifted
        t = np.minimum(np.maximum(onto / length, 0), 1)
        square -= t * (2 * onto - t * length)
        np.minimum(distance, np.sqrt(np.maximum(square, 0)) - (r + t * (end[3] - r)), out=distance)
    return distance


@_blockwise
def polygon(plane: Array, corners: Array) -> Array:
    """Distance within a plane ``(2, N)`` to the polygon with these ``corners``, in either sense of rotation.

    Example:
        >>> square = [(0, 0), (4, 0), (4, 4), (0, 4)]
        >>> polygon(np.float32([[2, 7], [1, 2]]), square).tolist()
        [-1.0, 3.0]
    """
    square = np.full(plane.shape[1], np.inf, np.float32)
    inside = np.zeros(plane.shape[1], bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy, px, py = bx - ax, by - ay, plane[0] - ax, plane[1] - ay
        t = np.minimum(np.maximum((px * dx + py * dy) / (dx * dx + dy * dy), 0), 1)
        np.minimum(square, (px - t * dx) ** 2 + (py - t * dy) ** 2, out=square)
        inside ^= ((py < 0) != (py < dy)) & ((px * dy < py * dx) == (dy > 0))
    return np.where(inside, -np.sqrt(square), np.sqrt(square))


def extrude(outline: Array, height: Array, half_thickness: Array | float) -> Array:
    """Distance to a plate: ``outline`` within its plane, ``height`` above its middle surface.

    Example:
        >>> extrude(np.float32([-9, 3]), np.float32([1, 6]), 2).tolist()
        [-1.0, 5.0]
    """
    across = np.abs(height) - half_thickness
    outer = np.sqrt(np.maximum(outline, 0) ** 2 + np.maximum(across, 0) ** 2)
    distance: Array = outer + np.minimum(np.maximum(outline, across), 0)
    return distance


def smooth_union(first: Array, second: Array, radius: float) -> Array:
    """Union whose seam is filled by a fillet of about ``radius`` mm (quadratic smooth minimum).

    Example:
        >>> smooth_union(np.float32([0, 0]), np.float32([0, 9]), 4).tolist()
        [-1.0, 0.0]
    """
    overlap = np.maximum(radius - np.abs(first - second), 0)
    union: Array = np.minimum(first, second) - overlap * overlap / (4 * radius)
    return union
