"""Policies that choose which samples to keep: certainty, coverage, content, herding."""

from lit_continual.methods.rehearsal.selection.abstraction import abstraction, layer_activations
from lit_continual.methods.rehearsal.selection.certainty_coverage import CertaintyCoverage, most_certain
from lit_continual.methods.rehearsal.selection.content_coverage import ContentCoverage
from lit_continual.methods.rehearsal.selection.content_distances import content_distances
from lit_continual.methods.rehearsal.selection.herding import Herding
from lit_continual.methods.rehearsal.selection.mc_dropout import dropout_uncertainty, mc_dropout
from lit_continual.methods.rehearsal.selection.measurement import measure_samples
from lit_continual.methods.rehearsal.selection.random import ClassBalancedReservoir, Random
from lit_continual.methods.rehearsal.selection.samples import POLICIES, Measurement, Policy, Samples, union

__all__ = [
    "POLICIES",
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
    "measure_samples",
    "most_certain",
    "union",
]
