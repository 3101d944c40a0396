"""LightningModules, and the heads that grow on them."""

from lit_continual.modules.class_ratio_cross_entropy import ClassRatioCrossEntropy
from lit_continual.modules.denoiser import Denoiser
from lit_continual.modules.growing_heads import GrowingHeads
from lit_continual.modules.hydra_net import HydraNet
from lit_continual.modules.meta_strategies import ANIL, FOMAML, MAML, MetaStrategy, Naive, Reptile
from lit_continual.modules.meta_tune import MetaTune
from lit_continual.modules.region_segmenter import RegionSegmenter
from lit_continual.modules.segmenter import Segmenter

__all__ = [
    "ANIL",
    "FOMAML",
    "MAML",
    "ClassRatioCrossEntropy",
    "Denoiser",
    "GrowingHeads",
    "HydraNet",
    "MetaStrategy",
    "MetaTune",
    "Naive",
    "RegionSegmenter",
    "Reptile",
    "Segmenter",
]
