"""The formulas of the papers: tensors in, tensors out."""

from lit_continual.denoising.region_statistics import coefficient_of_variation as coefficient_of_variation
from lit_continual.denoising.region_statistics import ensemble_bias as ensemble_bias
from lit_continual.denoising.region_statistics import ensemble_rmse as ensemble_rmse
from lit_continual.denoising.slice_neighbours import slice_neighbours as slice_neighbours
from lit_continual.methods.agem.projection import project_gradient as project_gradient
from lit_continual.methods.bases.importance.quadratic_penalty import importance_penalty as importance_penalty
from lit_continual.methods.bases.importance.quadratic_penalty import (
    importance_penalty_gradient as importance_penalty_gradient,
)
from lit_continual.methods.der.loss import dark_experience_loss as dark_experience_loss
from lit_continual.methods.distillation.loss import dice_distillation_loss as dice_distillation_loss
from lit_continual.methods.distillation.loss import distillation_loss as distillation_loss
from lit_continual.methods.ewc.fisher import fisher_information as fisher_information
from lit_continual.methods.fusion.fuse import fuse_weights as fuse_weights
from lit_continual.methods.l2sp.penalty import l2_sp as l2_sp
from lit_continual.methods.l2sp.penalty import l2_sp_gradient as l2_sp_gradient
from lit_continual.methods.l2sp.penalty import l2_sp_proximal_ as l2_sp_proximal_
from lit_continual.methods.lora.low_rank_update import low_rank_update as low_rank_update
from lit_continual.methods.mas.importance import memory_aware_importance as memory_aware_importance
from lit_continual.methods.meta.inner_loop import adapt as adapt
from lit_continual.methods.meta.known_gradient import known_gradient as known_gradient
from lit_continual.methods.meta.meta_gradient import meta_gradient as meta_gradient
from lit_continual.methods.meta.meta_gradient import reptile_gradient as reptile_gradient
from lit_continual.methods.meta.meta_gradient import task_gradient as task_gradient
from lit_continual.methods.mib.loss import unbiased_cross_entropy as unbiased_cross_entropy
from lit_continual.methods.mib.loss import unbiased_distillation_loss as unbiased_distillation_loss
from lit_continual.methods.plop.local_pod import local_pod_distance as local_pod_distance
from lit_continual.methods.rehearsal.content_distance import content_distance as content_distance
from lit_continual.methods.rehearsal.content_distance import layer_weight as layer_weight
from lit_continual.methods.rehearsal.content_distance import pairwise_squared_distance as pairwise_squared_distance
from lit_continual.methods.rehearsal.content_distance import squared_norms as squared_norms
from lit_continual.methods.rehearsal.coverage import coverage_order as coverage_order
from lit_continual.methods.rehearsal.coverage import maximum_coverage as maximum_coverage
from lit_continual.methods.rehearsal.coverage import maximum_coverage_of_features as maximum_coverage_of_features
from lit_continual.methods.rehearsal.selection.herding import herding as herding
from lit_continual.methods.rehearsal.selection.mc_dropout import mc_uncertainty as mc_uncertainty
from lit_continual.methods.rwalk.importance import path_score as path_score
from lit_continual.methods.si.importance import synaptic_importance as synaptic_importance
from lit_continual.methods.tgd.kernel_sparsity_entropy import kernel_sparsity_entropy as kernel_sparsity_entropy
from lit_continual.metrics.continual_scores import continual_scores as continual_scores
from lit_continual.segmentation.class_ratio_weights import class_ratio_weights as class_ratio_weights
