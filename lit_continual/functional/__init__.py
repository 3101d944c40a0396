"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.continual_scores import continual_scores
from lit_continual.functional.distillation_loss import distillation_loss
from lit_continual.functional.kernel_sparsity_entropy import kernel_sparsity_entropy
from lit_continual.functional.pet import coefficient_of_variation, ensemble_bias

__all__ = [
    "coefficient_of_variation",
    "continual_scores",
    "distillation_loss",
    "ensemble_bias",
    "kernel_sparsity_entropy",
]
