"""The solids of a left shoulder, drawn from a random generator, as signed distances in mm.

The frame is centred in the head of the humerus: ``x`` lateral, ``y`` anterior, ``z`` superior. Two poses are nested in
it: the scapula's (``u`` medial along the blade from the glenoid, ``v`` superior, ``w`` posterior) and the arm's (the
shaft runs along ``-z``).
"""

from collections.abc import Iterable

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from lit_continual.phantoms.shoulder.signed_distance import ellipsoid, extrude, polygon, smooth_union, tube
from lit_continual.phantoms.voxels import Array

HEAD = 23.0  # radius of the head of the humerus
GAP = 3.0  # cartilage between head and glenoid

# A muscle is a fan of tubes whose rows are x, y, z, radius; the first array is in the scapula's frame.
SCAPULAR_MUSCLES = [
    [[(85, 20, 8, 6), (45, 22, 13, 10), (12, 26, 10, 8), (-16, 27, 2, 5), (-40, 16, 0, 3)]],  # supraspinatus
    [  # infraspinatus
        [(88, -15, 14, 7), (28, -8, 19, 10), (-14, 6, 27, 6), (-42, 8, 16, 3)],
        [(82, -48, 14, 8), (28, -12, 19, 10)],
        [(72, -78, 12, 8), (28, -14, 19, 9)],
    ],
    [[(52, -75, 14, 7), (20, -42, 20, 8), (-8, -22, 24, 7), (-42, -6, 18, 4)]],  # teres minor
    [[(74, -100, 10, 9), (25, -78, 2, 11), (-20, -66, -8, 7)]],  # teres major
    [  # subscapularis
        [(80, 14, -8, 6), (28, 6, -18, 10), (-5, 4, -25, 8), (-36, 2, -26, 3)],
        [(88, -22, -7, 8), (28, -12, -18, 11), (-5, -2, -26, 8)],
        [(80, -52, -7, 8), (28, -22, -18, 11)],
        [(68, -82, -9, 8), (28, -30, -16, 10)],
    ],
]
ARM_MUSCLES = [
    [[(-8, -24, -50, 9), (2, -26, -90, 17), (6, -27, -180, 19)]],  # triceps
    [[(0, 24, -40, 5), (0, 25, -80, 12), (4, 28, -180, 17)], [(-16, 10, -50, 5), (-6, 18, -120, 9)]],  # biceps
]
TRUNK_MUSCLES = [
    [  # pectoralis major
        [(-130, 88, 5, 9), (-60, 62, -8, 10), (-15, 42, -32, 7), (10, 18, -52, 4)],
        [(-130, 84, -50, 10), (-55, 58, -34, 11), (-12, 36, -40, 6)],
    ],
    [[(-30, 30, 18, 4), (-70, 46, -20, 9), (-92, 58, -60, 9)]],  # pectoralis minor
    [  # trapezius
        [(-150, -50, 90, 14), (-70, -38, 48, 10), (-20, -20, 40, 6)],
        [(-150, -86, 30, 10), (-80, -66, 20, 8), (-40, -50, 24, 5)],
    ],
    [[(-130, -92, -100, 11), (-75, -80, -80, 10), (-30, -35, -70, 9), (-8, 0, -62, 5)]],  # latissimus dorsi
]
HOLLOWS = [  # what fat fills between the bellies: axilla, quadrangular space, above and below the clavicle
    [(-62, 14, 20, 34), (-60, 8, -25, 30)],
    [(-60, 0, -10, 26), (-22, 0, -32, 20)],
    [(-140, 0, 34, 42), (-70, 0, 38, 36), (-30, 0, 36, 24)],
    [(-32, 26, 8, 16), (-26, 28, -20, 15)],
]


def rotate(points: Array, axes: str, degrees: ArrayLike) -> Array:
    """Coordinates of ``points (3, N)`` in a frame turned by intrinsic Euler angles."""
    matrix = Rotation.from_euler(axes, degrees, degrees=True).as_matrix()
    turned: Array = matrix.T.astype(np.float32) @ points
    return turned


class ShoulderAnatomy:
    """Solids of one subject at ``points`` ``(3, N)`` in mm; each is drawn anew when it is asked for, the bones once.

    Everything in which the subject differs from others is drawn from ``rng``.
    """

    def __init__(self, rng: Generator, points: Array) -> None:
        self.rng, self.points = rng, points
        plane, upward, tilt = rng.uniform((27, -4, -6), (42, 12, 6))
        turned = rotate(points, "ZYX", (plane, -upward, tilt))
        self.scapular = np.stack([-turned[0] - (HEAD + GAP), turned[2], -turned[1]])
        rotation, abduction, flexion = rng.uniform((-35, 4, -12), (30, 20, 10))
        self.arm = rotate(points, "YXZ", (-abduction, flexion, rotation))
        self.head = np.sqrt(np.einsum("ij,ij->j", points, points)) - np.float32(HEAD)
        self.humerus = self._humerus()
        self.scapula = self._scapula()

    def _humerus(self) -> Array:
        p, shaft = self.arm, self.rng.uniform(10, 12)
        neck = [(4, 0, -6, 19), (9, 0, -30, shaft + 3), (10, 0, -55, shaft), (10, 2, -200, shaft - 1)]
        bone = smooth_union(self.head, tube(p, neck), 6)
        bone = smooth_union(bone, ellipsoid(p, (14, 1, 2), (13, 15, 15)), 5)  # greater tubercle
        bone = smooth_union(bone, ellipsoid(p, (11, 16, -4), (8, 8, 13)), 4)  # lesser tubercle
        grooved: Array = np.maximum(bone, -tube(p, [(20, 18, 8, 3.5), (19, 16, -40, 3)]))  # for the biceps
        return grooved

    def _scapula(self) -> Array:
        p, crest = self.scapular, self.rng.uniform(28, 33)
        bone = smooth_union(self._blade(), self._spine(crest), 5)
        bone = smooth_union(bone, tube(p, [(70, 11, 17, 3.0), (12, 23, crest, 4.5)]), 4)
        socket = smooth_union(ellipsoid(p, (5, -1, 0), (8, 18, 12.5)), tube(p, [(6, 0, 0, 10), (24, -3, 3, 3)]), 5)
        bone = smooth_union(bone, socket, 6)
        coracoid = self._vary([(10, 14, -3, 6.5), (4, 27, -16, 5.5), (-8, 24, -29, 5), (-16, 17, -34, 4.5)], 0.8)
        bone = smooth_union(bone, tube(p, coracoid), 4)
        flat = np.float32(2.2)  # the acromion is a tube, flattened
        acromion = [(12, 54, crest, 8), (-14, 82, 31, 11), (-32, 86, 16, 11), (-28, 84, -4, 8)]
        bone = smooth_union(bone, tube(p * np.stack([[1], [flat], [1]]), acromion) / flat, 4)
        fitted: Array = np.maximum.reduce([bone, GAP - self.head, 1 - self.humerus])
        return fitted

    def _blade(self) -> Array:
        u, v, w = self.scapular
        bow, half = self.rng.uniform(5, 10), self.rng.uniform(1.7, 2.4)
        middle = bow * (1 - ((u - 50) / 50) ** 2) * np.clip(1 - v / 90, 0.3, 1.4)
        corners = np.array([(8, 12), (10, -14), (74, -108), (84, -100), (98, -8), (86, 34), (74, 34), (40, 18)])
        corners = corners + self.rng.normal(0, 2, (8, 2))
        pillar = polygon(self.scapular[:2], [corners[1], corners[2], corners[2] + (2, 4), (18, -10)])
        thickened: Array = np.exp(-np.maximum(pillar, 0) / 5)
        return extrude(polygon(self.scapular[:2], corners), w - middle, half + 1.5 * thickened)

    def _spine(self, crest: float) -> Array:
        u, v, w = self.scapular
        outline = polygon(self.scapular[::2], [(96, 0), (95, 7), (12, crest), (8, crest), (24, 4)])
        return extrude(outline, v - (2 + 0.1 * (95 - u) + 0.35 * w), 2.3)

    def clavicle(self) -> Array:
        """S-shaped, from the acromion to beyond the medial edge."""
        path = [(2, 20, 37, 6), (-30, 20, 44, 5.5), (-70, 38, 40, 5.5), (-110, 58, 28, 7), (-160, 66, 18, 9)]
        return tube(self.points, self._vary(path))

    def thorax(self) -> tuple[Array, Array]:
        """Distance to the outside of the chest wall, and to the ribs within it."""
        x, y, z = self.points
        x = (x + 172) / np.maximum(86 - 0.30 * z - 0.0025 * z * z, 20)
        y = (y - 4) / np.maximum(74 - 0.25 * z - 0.003 * z * z, 20)
        wall = (np.sqrt(x * x + y * y) - 1) * 75
        pitch, phase = self.rng.uniform((24, 0), (29, 1)).tolist()
        turn = ((z + 26 * np.arctan2(y, x)) / pitch + phase) % 1 - 0.5
        return wall, np.hypot((wall + 5) * 1.6, turn * pitch) - 6

    def muscles(self) -> list[Array]:
        """Bellies of the muscles around the joint, the deltoid first; neighbours may overlap."""
        frames = (self.scapular, SCAPULAR_MUSCLES), (self.arm, ARM_MUSCLES), (self.points, TRUNK_MUSCLES)
        return [self._deltoid(), *(self._fan(points, fan) for points, fans in frames for fan in fans)]

    def _deltoid(self) -> Array:
        axis = tube(self.arm, [(4, 0, 2, 0), (9, 0, -60, 0), (10, 0, -220, 0)])
        lower = np.clip(-self.points[2] / 100, 0, 1)  # it wraps the head and tapers to its insertion on the shaft
        band = np.abs(axis - (36 - 12 * lower)) - (8.5 - 3 * lower)
        belly: Array = np.maximum.reduce([band, 14 * lower - 8 - self.arm[0], self.points[2] - 30])
        return belly

    def vessels(self) -> Array:
        """Axillary and brachial artery and vein, and a branch of each end."""
        path = [(-150, 30, 40, 4.5), (-60, 26, 4, 4), (-30, 12, -32, 3.5), (-14, 4, -120, 3)]
        artery = self._vary(path, 3)
        vein = artery + np.array([-4, 6, -5, 0.8], np.float32)
        around = self._vary([artery[2], (-2, -22, -36, 1.5), (30, -22, -34, 1.2)], 3)
        down = self._vary([artery[1], (-70, -5, -50, 2), (-70, -20, -90, 1.5)], 3)
        return self.union([artery, vein, around, down])

    def union(self, paths: Iterable[ArrayLike]) -> Array:
        """The tubes along several paths as one solid."""
        nearest: Array = np.minimum.reduce([tube(self.points, path) for path in paths])
        return nearest

    def _vary(self, path: ArrayLike, sd: float = 1.5) -> Array:
        path = np.array(path, np.float32)
        path[:, :3] += self.rng.normal(0, sd, (len(path), 3))
        path[:, 3] *= self.rng.uniform(0.88, 1.12)
        return path

    def _fan(self, points: Array, paths: Iterable[ArrayLike]) -> Array:
        first, *others = (tube(points, self._vary(path)) for path in paths)
        for other in others:
            first = smooth_union(first, other, 6)
        return first
