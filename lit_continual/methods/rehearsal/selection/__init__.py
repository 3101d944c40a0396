"""Policies that choose which samples to keep: certainty, coverage, content, herding."""

from lit_continual.methods.rehearsal.selection.abstraction import abstraction, layer_activations
from lit_continual.methods.rehearsal.selection.certainty_coverage import CertaintyCoverage, most_certain
from lit_continual.methods.rehearsal.selection.class_balanced_reservoir import ClassBalancedReservoir
from lit_continual.methods.rehearsal.selection.content_coverage import ContentCoverage
from lit_continual.methods.rehearsal.selection.content_distances import content_distances
from lit_continual.methods.rehearsal.selection.herding import Herding
from lit_continual.methods.rehearsal.selection.mc_dropout import dropout_uncertainty, mc_dropout
from lit_continual.methods.rehearsal.selection.measured import measured
from lit_continual.methods.rehearsal.selection.policy_of import policy_of
from lit_continual.methods.rehearsal.selection.random import Random
from lit_continual.methods.rehearsal.selection.samples import Measurement, Policy, Samples, per_class, union, volumes

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
