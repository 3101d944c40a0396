"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.class_ratio_weights import class_ratio_weights
from lit_continual.functional.content_distance import (
    content_distance,
    layer_weight,
    pairwise_squared_distance,
    squared_norms,
)
from lit_continual.functional.continual_scores import continual_scores
from lit_continual.functional.coverage_of_features import coverage_order, maximum_coverage_of_features
from lit_continual.functional.distillation_loss import distillation_loss
from lit_continual.functional.herding import herding
from lit_continual.functional.inner_loop import adapt
from lit_continual.functional.kernel_sparsity_entropy import kernel_sparsity_entropy
from lit_continual.functional.known_gradient import known_gradient
from lit_continual.functional.l2_sp import l2_sp, l2_sp_gradient, l2_sp_proximal_
from lit_continual.functional.maximum_coverage import maximum_coverage
from lit_continual.functional.mc_uncertainty import mc_uncertainty
from lit_continual.functional.meta_gradient import meta_gradient, task_gradient
from lit_continual.functional.pet import coefficient_of_variation, ensemble_bias, ensemble_rmse
from lit_continual.functional.reptile_gradient import reptile_gradient
from lit_continual.functional.slice_neighbours import slice_neighbours

__all__ = [
    "adapt",
    "class_ratio_weights",
    "coefficient_of_variation",
    "content_distance",
    "continual_scores",
    "coverage_order",
    "distillation_loss",
    "ensemble_bias",
    "ensemble_rmse",
    "herding",
    "kernel_sparsity_entropy",
    "known_gradient",
    "l2_sp",
    "l2_sp_gradient",
    "l2_sp_proximal_",
    "layer_weight",
    "maximum_coverage",
    "maximum_coverage_of_features",
    "mc_uncertainty",
    "meta_gradient",
    "pairwise_squared_distance",
    "reptile_gradient",
    "slice_neighbours",
    "squared_norms",
    "task_gradient",
]
