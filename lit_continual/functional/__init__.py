"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.content_distance import (
    content_distance,
    layer_weight,
    pairwise_squared_distance,
    squared_norms,
)
from lit_continual.functional.coverage_of_features import coverage_order, maximum_coverage_of_features
from lit_continual.functional.herding import herding
from lit_continual.functional.maximum_coverage import maximum_coverage
from lit_continual.functional.mc_uncertainty import mc_uncertainty

__all__ = [
    "content_distance",
    "coverage_order",
    "herding",
    "layer_weight",
    "maximum_coverage",
    "maximum_coverage_of_features",
    "mc_uncertainty",
    "pairwise_squared_distance",
    "squared_norms",
]
