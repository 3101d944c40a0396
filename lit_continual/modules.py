"""LightningModules, and the strategies of meta-learning, by the names that configs use."""

from lit_continual.denoising.denoiser import Denoiser as Denoiser
from lit_continual.interop.bundle.bundle_segmenter import BundleSegmenter as BundleSegmenter
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter as NNUNetSegmenter
from lit_continual.methods.meta.strategies import ANIL as ANIL
from lit_continual.methods.meta.strategies import FOMAML as FOMAML
from lit_continual.methods.meta.strategies import MAML as MAML
from lit_continual.methods.meta.strategies import MetaStrategy as MetaStrategy
from lit_continual.methods.meta.strategies import Naive as Naive
from lit_continual.methods.meta.strategies import Reptile as Reptile
from lit_continual.segmentation.class_ratio_cross_entropy import ClassRatioCrossEntropy as ClassRatioCrossEntropy
from lit_continual.segmentation.growing_heads import GrowingHeads as GrowingHeads
from lit_continual.segmentation.hydra_net import HydraNet as HydraNet
from lit_continual.segmentation.region_segmenter import RegionSegmenter as RegionSegmenter
from lit_continual.segmentation.segmenter import Segmenter as Segmenter
from lit_continual.segmentation.shared_head import SharedHead as SharedHead
