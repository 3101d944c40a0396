"""LightningModules, and the heads that grow on them."""

from lit_continual.modules.denoiser import Denoiser
from lit_continual.modules.growing_heads import GrowingHeads
from lit_continual.modules.segmenter import Segmenter

__all__ = ["Denoiser", "GrowingHeads", "Segmenter"]
