"""LightningModules, and the strategies of meta-learning, by the names that configs use."""

from lit_continual.denoising.denoiser import Denoiser
from lit_continual.interop.bundle.bundle_segmenter import BundleSegmenter
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter
from lit_continual.methods.meta.strategies import ANIL, FOMAML, MAML, MetaStrategy, Naive, Reptile
from lit_continual.segmentation.class_ratio_cross_entropy import ClassRatioCrossEntropy
from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.hydra_net import HydraNet
from lit_continual.segmentation.region_segmenter import RegionSegmenter
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.segmentation.shared_head import SharedHead

__all__ = [
    "ANIL",
    "FOMAML",
    "MAML",
    "BundleSegmenter",
    "ClassRatioCrossEntropy",
    "Denoiser",
    "GrowingHeads",
    "HydraNet",
    "MetaStrategy",
    "NNUNetSegmenter",
    "Naive",
    "RegionSegmenter",
    "Reptile",
    "Segmenter",
    "SharedHead",
]
