"""Policies that choose which samples to keep: certainty, coverage, content, herding."""

from lit_continual.methods.rehearsal.selection.abstraction import abstraction as abstraction
from lit_continual.methods.rehearsal.selection.abstraction import layer_activations as layer_activations
from lit_continual.methods.rehearsal.selection.certainty_coverage import CertaintyCoverage as CertaintyCoverage
from lit_continual.methods.rehearsal.selection.certainty_coverage import most_certain as most_certain
from lit_continual.methods.rehearsal.selection.content_coverage import ContentCoverage as ContentCoverage
from lit_continual.methods.rehearsal.selection.content_distances import content_distances as content_distances
from lit_continual.methods.rehearsal.selection.herding import Herding as Herding
from lit_continual.methods.rehearsal.selection.mc_dropout import dropout_uncertainty as dropout_uncertainty
from lit_continual.methods.rehearsal.selection.mc_dropout import mc_dropout as mc_dropout
from lit_continual.methods.rehearsal.selection.measurement import measure_samples as measure_samples
from lit_continual.methods.rehearsal.selection.random import ClassBalancedReservoir as ClassBalancedReservoir
from lit_continual.methods.rehearsal.selection.random import Random as Random
from lit_continual.methods.rehearsal.selection.samples import POLICIES as POLICIES
from lit_continual.methods.rehearsal.selection.samples import Measurement as Measurement
from lit_continual.methods.rehearsal.selection.samples import Policy as Policy
from lit_continual.methods.rehearsal.selection.samples import Samples as Samples
from lit_continual.methods.rehearsal.selection.samples import union as union
