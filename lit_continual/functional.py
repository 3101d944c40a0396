"""The formulas of the papers: tensors in, tensors out."""

from lit_continual.denoising.region_statistics import coefficient_of_variation, ensemble_bias, ensemble_rmse
from lit_continual.denoising.slice_neighbours import slice_neighbours
from lit_continual.methods.agem.projection import project_gradient
from lit_continual.methods.der.loss import dark_experience_loss
from lit_continual.methods.distillation.loss import dice_distillation_loss, distillation_loss
from lit_continual.methods.ewc.fisher import fisher_information
from lit_continual.methods.fusion.fuse import fuse_weights
from lit_continual.methods.l2sp.penalty import l2_sp, l2_sp_gradient, l2_sp_proximal_
from lit_continual.methods.lora.low_rank_update import low_rank_update
from lit_continual.methods.mas.importance import memory_aware_importance
from lit_continual.methods.meta.inner_loop import adapt
from lit_continual.methods.meta.known_gradient import known_gradient
from lit_continual.methods.meta.meta_gradient import meta_gradient, reptile_gradient, task_gradient
from lit_continual.methods.mib.loss import unbiased_cross_entropy, unbiased_distillation_loss
from lit_continual.methods.plop.local_pod import local_pod_distance
from lit_continual.methods.quadratic_penalty import importance_penalty, importance_penalty_gradient
from lit_continual.methods.rehearsal.content_distance import (
    content_distance,
    layer_weight,
    pairwise_squared_distance,
    squared_norms,
)
from lit_continual.methods.rehearsal.coverage import coverage_order, maximum_coverage, maximum_coverage_of_features
from lit_continual.methods.rehearsal.selection.herding import herding
from lit_continual.methods.rehearsal.selection.mc_dropout import mc_uncertainty
from lit_continual.methods.rwalk.importance import path_score
from lit_continual.methods.si.importance import synaptic_importance
from lit_continual.methods.tgd.kernel_sparsity_entropy import kernel_sparsity_entropy
from lit_continual.metrics.continual_scores import continual_scores
from lit_continual.segmentation.class_ratio_weights import class_ratio_weights

__all__ = [
    "adapt",
    "class_ratio_weights",
    "coefficient_of_variation",
    "content_distance",
    "continual_scores",
    "coverage_order",
    "dark_experience_loss",
    "dice_distillation_loss",
    "distillation_loss",
    "ensemble_bias",
    "ensemble_rmse",
    "fisher_information",
    "fuse_weights",
    "herding",
    "importance_penalty",
    "importance_penalty_gradient",
    "kernel_sparsity_entropy",
    "known_gradient",
    "l2_sp",
    "l2_sp_gradient",
    "l2_sp_proximal_",
    "layer_weight",
    "local_pod_distance",
    "low_rank_update",
    "maximum_coverage",
    "maximum_coverage_of_features",
    "mc_uncertainty",
    "memory_aware_importance",
    "meta_gradient",
    "pairwise_squared_distance",
    "path_score",
    "project_gradient",
    "reptile_gradient",
    "slice_neighbours",
    "squared_norms",
    "synaptic_importance",
    "task_gradient",
    "unbiased_cross_entropy",
    "unbiased_distillation_loss",
]
