"""A brain with tumours, as shares of tissue per voxel: what a scanner would average."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lit_continual.phantoms.voxels import Array, Spacing, Triple, coverage, smooth_noise

TISSUES = ("air", "scalp", "skull", "csf", "grey", "white", "lesion", "sinus", "necrosis", "oedema", "rim")
HEAD = np.array([76, 96, 84], np.float32)  # half axes of the scalp in mm, to the right, front and top


@dataclass(frozen=True)
class Tumour:
    """One tumour: where, how large, and how far its necrosis and oedema reach, in mm."""

    centre: Array
    radius: float
    rim: float
    oedema: float


def brain_tissues(rng: Generator, kind: str, size: Triple, spacing: Spacing) -> tuple[Array, NDArray[np.uint8]]:
    """Draw a head with tumours.

    Gliomas are one, large, with a wide necrotic core, an uneven enhancing rim and oedema along the white matter.
    Metastases are three to eight, small and round at the border of grey and white matter; those above 5 mm have a
    necrotic centre within a ring, the others enhance all through.

    Returns:
        Shares of :data:`TISSUES` ``(X, Y, Z, T)``, which sum to 1, and labels ``(X, Y, Z)``: 1 necrosis, 2 oedema,
        3 enhancing rim, where the tumour fills at least half of the voxel: the largest of its parts.
    """
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    head = HEAD * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    points = grid + 2.5 * np.stack([smooth_noise(rng, size, (5, 5, 5)) for _ in range(3)], axis=-1)
    depth = (1 - np.linalg.norm(points / head, axis=-1)) * head.min()  # mm below the skin, about
    share = _healthy(rng, points, depth, size, max(spacing[:2]))
    white = share[..., TISSUES.index("white")].copy()
    tumours = _gliomas(rng, depth, grid) if kind == "glioma" else _metastases(rng, depth, grid, white)
    for tumour in tumours:
        _grow(rng, share, tumour, grid, depth, white, max(spacing[:2]))
    parts = share[..., -3:]
    label = np.where(parts.sum(-1) >= 0.5, parts.argmax(-1) + 1, 0).astype(np.uint8)
    return share, label


def _paint(share: Array, tissue: str, cover: Array) -> None:
    share *= 1 - cover[..., None]
    share[..., TISSUES.index(tissue)] += cover


def _healthy(rng: Generator, points: Array, depth: Array, size: Triple, edge: float) -> Array:
    share = np.zeros((*size, len(TISSUES)), np.float32)
    share[..., 0] = 1
    scalp, skull, fluid, cortex = np.cumsum(rng.uniform((4, 5, 1.5, 3), (7, 8, 3.5, 5))).tolist()
    folds = np.abs(smooth_noise(rng, size, (16, 20, 12)))
    for tissue, top in ("scalp", 0), ("skull", scalp), ("csf", skull):
        _paint(share, tissue, coverage(top - depth, edge))
    _paint(share, "grey", coverage(np.maximum(fluid - depth, 6 - 9 * folds - (depth - fluid)), edge))
    _paint(share, "white", coverage(cortex + 13 * np.clip(0.85 - folds, 0, 1) - depth, edge))
    middle, front, top = np.moveaxis(points, -1, 0)
    side = np.abs(middle)
    _paint(share, "csf", coverage(np.maximum(side - 1.2, depth - 22), edge) * (depth > fluid))
    nuclei = np.stack([side - 17, front - 4, 0.8 * (top + 8)]) / np.array([8, 19, 13], np.float32)[:, None, None, None]
    _paint(share, "grey", coverage((np.linalg.norm(nuclei, axis=0) - 1) * 8, edge))
    width = rng.uniform(5, 9)
    horn = np.stack([side - 9 - 0.003 * front**2, front - 2, top - 12 + 0.004 * front**2])
    reach = np.array([width, rng.uniform(28, 36), rng.uniform(8, 12)], np.float32)[:, None, None, None]
    ventricle = (np.linalg.norm(horn / reach, axis=0) - 1) * width
    caps = np.clip(smooth_noise(rng, size, (10, 10, 8)) - 0.3, 0, 0.8) * coverage(ventricle - 4, edge)
    _paint(share, "lesion", caps * share[..., TISSUES.index("white")])  # age, not tumour: bright in FLAIR, no label
    _paint(share, "csf", coverage(ventricle, edge))
    sinus = np.hypot(middle, depth - fluid) - rng.uniform(3, 5)
    _paint(share, "sinus", coverage(np.maximum(sinus, front + 20), edge))
    return share


def _gliomas(rng: Generator, depth: Array, grid: Array) -> list[Tumour]:
    side = np.abs(grid[..., 0])
    inside = grid[(depth > 30) & (side > 18) & (np.abs(grid[..., 2]) < 0.6 * np.abs(grid[..., 2]).max())]
    radius = rng.uniform(13, 22)
    return [Tumour(inside[rng.integers(len(inside))], radius, rng.uniform(3.5, 6), rng.uniform(9, 18))]


def _metastases(rng: Generator, depth: Array, grid: Array, white: Array) -> list[Tumour]:
    border = grid[(depth > 25) & (depth < 46) & (white > 0.2) & (white < 0.9)]
    tumours: list[Tumour] = []
    while len(tumours) < 3 or (len(tumours) < 8 and rng.random() < 0.65):
        radius = float(np.exp(rng.normal(1.75, 0.35)).clip(3.5, 11))
        oedema = rng.uniform(0, 8) if rng.random() < 0.7 else 0.0
        tumours.append(Tumour(border[rng.integers(len(border))], radius, float(np.clip(0.4 * radius, 2, 3)), oedema))
    return tumours


def _grow(rng: Generator, share: Array, tumour: Tumour, grid: Array, depth: Array, white: Array, edge: float) -> None:
    size = depth.shape
    uneven = tumour.radius * (0.2 * smooth_noise(rng, size, (8, 8, 6)) + 0.1 * smooth_noise(rng, size, (20, 20, 10)))
    distance = np.linalg.norm(grid - tumour.centre, axis=-1) + uneven
    outer = np.maximum(distance - tumour.radius, 13 - depth)  # the skull holds it back
    fingers = np.where(white > 0.4, 1.0, 0.35) * (1 + 0.35 * smooth_noise(rng, size, (9, 9, 7)))
    if tumour.oedema:
        soaked = outer - tumour.oedema * np.clip(fingers, 0.1, 1.6)
        _paint(share, "oedema", 0.95 * coverage(np.maximum(soaked, 14 - depth), edge))
    _paint(share, "rim", coverage(outer, edge))
    ring = tumour.rim * np.clip(1 + 0.45 * smooth_noise(rng, size, (9, 9, 7)), 0.35, 1.8)
    if tumour.radius > 5:
        _paint(share, "necrosis", coverage(outer + ring, edge))
