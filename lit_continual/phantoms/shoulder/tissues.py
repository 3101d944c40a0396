"""From the solids of a shoulder to shares of tissue per voxel: what a scanner would average."""

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lit_continual.phantoms.shoulder.anatomy import GAP, HOLLOWS, ShoulderAnatomy, rotate
from lit_continual.phantoms.voxels import Array, Spacing, Triple, coverage, smooth_noise

TISSUES = ("air", "skin", "fat", "muscle", "bone", "marrow", "red marrow", "cartilage", "vessel", "lung")
CENTRE = np.array([22, 16, 12], np.float32)  # of the head of the humerus: mm lateral, anterior, superior of the middle


class _Canvas:
    """Shares of :data:`TISSUES` at N points, painted one tissue over the other."""

    def __init__(self, points: int, edge: float) -> None:
        self.share = np.zeros((points, len(TISSUES)), np.float32)
        self.share[:, 0] = 1
        self.edge = edge

    def paint(self, tissue: str, solid: Array, opacity: Array | float = 1.0) -> None:
        where = np.flatnonzero(solid < self.edge / 2)
        cover = coverage(solid[where], self.edge) * (opacity[where] if isinstance(opacity, np.ndarray) else opacity)
        shares = self.share[where] * (1 - cover)[:, None]
        shares[:, TISSUES.index(tissue)] += cover
        self.share[where] = shares


def shoulder_tissues(rng: Generator, size: Triple, spacing: Spacing) -> tuple[Array, NDArray[np.uint8]]:
    """Draw a left shoulder from the subject's own stream, on a grid to the right, front and top.

    Returns:
        Shares of :data:`TISSUES` ``(X, Y, Z, T)``, which sum to 1, and labels ``(X, Y, Z)``: 1 humerus, 2 scapula,
        where one of them fills at least half of the voxel.
    """
    layers = [math.ceil(s / (2 * max(spacing[:2]))) for s in spacing]  # thick slices average several
    shape = (size[0] * layers[0], size[1] * layers[1], size[2] * layers[2])
    steps = [s / n for s, n in zip(spacing, layers, strict=True)]
    anatomy = ShoulderAnatomy(rng, _points(rng, shape, steps))
    canvas = _Canvas(anatomy.points.shape[1], sum(steps) / 3)
    _paint_soft_tissue(rng, anatomy, canvas, shape, steps)
    _paint_bones(rng, anatomy, canvas, shape)
    bones = np.stack([coverage(bone, canvas.edge) for bone in (anatomy.humerus, anatomy.scapula)], axis=1)

    def integrate(values: Array) -> Array:
        split = [n for pair in zip(size, layers, strict=True) for n in pair]
        shares: Array = values.reshape(*split, -1).mean(axis=(1, 3, 5))
        return shares

    filled = integrate(bones)
    labels = np.where(filled.max(-1) >= 0.5, filled.argmax(-1) + 1, 0).astype(np.uint8)
    return integrate(canvas.share), labels


def _points(rng: Generator, shape: Triple, steps: list[float]) -> Array:
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(shape, steps, strict=True)]
    axes[0] *= -1  # a left shoulder: lateral is to the left, and the first axis runs to the right
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32)
    points -= (CENTRE + rng.uniform(-6, 6, 3).astype(np.float32))[:, None]
    points = rotate(points, "ZYX", rng.uniform(-6, 6, 3)) / np.float32(rng.uniform(0.9, 1.1))
    points += 2 * np.stack([smooth_noise(rng, shape, (6, 6, 5)).ravel() for _ in range(3)])
    return points


def _paint_soft_tissue(
    rng: Generator, anatomy: ShoulderAnatomy, canvas: _Canvas, shape: Triple, steps: list[float]
) -> None:
    wall, ribs = anatomy.thorax()
    clavicle = anatomy.clavicle()
    belly = np.full(len(wall), np.inf, np.float32)
    neighbour = belly.copy()
    for muscle in [*anatomy.muscles(), np.abs(wall - 4) - 5]:  # the last one is serratus anterior
        neighbour = np.minimum(neighbour, np.maximum(belly, muscle))
        belly = np.minimum(belly, muscle)
    bones = np.minimum.reduce([anatomy.humerus, anatomy.scapula, clavicle])
    body = np.minimum.reduce([belly - 3, bones - 4, wall - 8, anatomy.union(HOLLOWS)])
    body = gaussian_filter(body.reshape(shape), [5 / s for s in steps], mode="nearest", truncate=2.5).ravel()
    thickness, bulk, septum = rng.uniform((3, 1, 0.3), (10, 4, 0.9)).tolist()
    canvas.paint("skin", body - thickness)
    canvas.paint("fat", body - thickness + 2)
    streaks = 0.12 * smooth_noise(rng, shape, (40, 40, 10)) + 0.06 * smooth_noise(rng, shape, (8, 8, 6))
    belly = np.maximum.reduce([belly - bulk, septum - (neighbour - belly) / 2, body + 1.5])
    canvas.paint("muscle", belly, 1 - np.clip(streaks.ravel(), 0, 0.5))
    canvas.paint("muscle", np.abs(wall + 5) - 5)
    canvas.paint("lung", wall + 10)
    canvas.paint("vessel", np.maximum(anatomy.vessels(), body))
    for bone, cortex in (ribs, 1.5), (clavicle, 2):
        canvas.paint("bone", bone)
        canvas.paint("marrow", bone + cortex)


def _paint_bones(rng: Generator, anatomy: ShoulderAnatomy, canvas: _Canvas, shape: Triple) -> None:
    red = np.clip(0.4 + 0.3 * smooth_noise(rng, shape, (12, 12, 8)).ravel(), 0, 1)
    joint = np.maximum(anatomy.head - GAP, 4 + anatomy.arm[0] - 0.2 * anatomy.arm[2])
    canvas.paint("bone", np.maximum(anatomy.head - 5, -joint), 0.5)  # tendons of the rotator cuff are as dark as bone
    canvas.paint("cartilage", joint)
    shell = 1.3 + 2 / (1 + np.exp((anatomy.arm[2] + 38) / 6))  # thin around the head, thick around the shaft
    for bone, cortex, amount in (anatomy.scapula, 1.2, red), (anatomy.humerus, shell, 0.6 * red):
        canvas.paint("bone", bone)
        canvas.paint("marrow", bone + cortex)
        canvas.paint("red marrow", bone + cortex, amount)
