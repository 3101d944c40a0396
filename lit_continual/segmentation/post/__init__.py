"""Post-processing of label maps."""

from lit_continual.runs.classes import TRANSFORMS
from lit_continual.segmentation.post.binary_morphology import BinaryMorphology, BinaryMorphologyd
from lit_continual.segmentation.post.remove_outside import RemoveOutside, RemoveOutsided

__all__ = [
    "TRANSFORMS",
    "BinaryMorphology",
    "BinaryMorphologyd",
    "RemoveOutside",
    "RemoveOutsided",
]
