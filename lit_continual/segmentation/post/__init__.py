"""Post-processing of label maps."""

from lit_continual.segmentation.post.binary_morphology import BinaryMorphology, BinaryMorphologyd
from lit_continual.segmentation.post.remove_outside import RemoveOutside, RemoveOutsided

__all__ = [
    "BinaryMorphology",
    "BinaryMorphologyd",
    "RemoveOutside",
    "RemoveOutsided",
]
