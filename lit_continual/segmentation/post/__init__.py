"""Post-processing of label maps."""

from lit_continual.runs.checkpoints.classes import TRANSFORMS as TRANSFORMS
from lit_continual.segmentation.post.binary_morphology import BinaryMorphology as BinaryMorphology
from lit_continual.segmentation.post.binary_morphology import BinaryMorphologyd as BinaryMorphologyd
from lit_continual.segmentation.post.remove_outside import RemoveOutside as RemoveOutside
from lit_continual.segmentation.post.remove_outside import RemoveOutsided as RemoveOutsided
