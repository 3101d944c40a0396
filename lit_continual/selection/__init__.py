"""Which samples to keep: certainty, coverage, content, herding."""

from lit_continual.selection.abstraction import abstraction, layer_activations
from lit_continual.selection.certainty_coverage import CertaintyCoverage, most_certain
from lit_continual.selection.class_balanced_reservoir import ClassBalancedReservoir
from lit_continual.selection.content_coverage import ContentCoverage
from lit_continual.selection.content_distances import content_distances
from lit_continual.selection.herding import Herding
from lit_continual.selection.mc_dropout import dropout_uncertainty, mc_dropout
from lit_continual.selection.measured import measured
from lit_continual.selection.policy_of import policy_of
from lit_continual.selection.random import Random
from lit_continual.selection.samples import Measurement, Policy, Samples, per_class, union, volumes

__all__ = [
    "CertaintyCoverage",
    "ClassBalancedReservoir",
    "ContentCoverage",
    "Herding",
    "Measurement",
    "Policy",
    "Random",
    "Samples",
    "abstraction",
    "content_distances",
    "dropout_uncertainty",
    "layer_activations",
    "mc_dropout",
    "measured",
    "most_certain",
    "per_class",
    "policy_of",
    "union",
    "volumes",
]
