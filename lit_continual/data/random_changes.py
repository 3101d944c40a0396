"""MONAI's random transforms of one sample."""

import copy
from typing import Any

import numpy as np
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose


def transformed(transforms: Compose, sample: dict[str, Any], random: np.random.Generator) -> Any:
    """Change a sample by transforms whose random state is drawn from ``random``."""
    transforms.set_random_state(int(random.integers(2**32)))
    tracked = get_track_meta()
    set_track_meta(False)  # a patch has no place in the world any more, and keeping one takes half of the time
    try:
        return transforms(sample)
    finally:
        set_track_meta(tracked)


def certain(transforms: Compose) -> Compose:
    """Return a copy of transforms, of which each is applied whatever its probability."""
    copied = copy.deepcopy(transforms)
    for transform in copied.flatten().transforms:
        if hasattr(transform, "prob"):
            transform.prob = 1.0
    return copied
