"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.class_ratio_weights import class_ratio_weights
from lit_continual.functional.continual_scores import continual_scores
from lit_continual.functional.distillation_loss import distillation_loss
from lit_continual.functional.l2_sp import l2_sp, l2_sp_gradient, l2_sp_proximal_

__all__ = ["class_ratio_weights", "continual_scores", "distillation_loss", "l2_sp", "l2_sp_gradient", "l2_sp_proximal_"]
