"""Torchmetrics classes: Dice, surface distance, the result matrix and what follows from it."""

from lit_continual.metrics.continual import (
    AverageAccuracy,
    BackwardTransfer,
    ContinualScore,
    Forgetting,
    ForwardTransfer,
    Intransigence,
)
from lit_continual.metrics.dice import Dice
from lit_continual.metrics.evaluations import Evaluations
from lit_continual.metrics.paired_test import PairedTest, paired_test
from lit_continual.metrics.per_case_score import PerCaseScore
from lit_continual.metrics.precision import Precision
from lit_continual.metrics.region_score import CoefficientOfVariation, EnsembleBias, EnsembleRMSE
from lit_continual.metrics.result_matrix import ResultMatrix
from lit_continual.metrics.surface_distance import AverageSurfaceDistance, HausdorffDistance95, SurfaceDistance

__all__ = [
    "AverageAccuracy",
    "AverageSurfaceDistance",
    "BackwardTransfer",
    "CoefficientOfVariation",
    "ContinualScore",
    "Dice",
    "EnsembleBias",
    "EnsembleRMSE",
    "Evaluations",
    "Forgetting",
    "ForwardTransfer",
    "HausdorffDistance95",
    "Intransigence",
    "PairedTest",
    "PerCaseScore",
    "Precision",
    "ResultMatrix",
    "SurfaceDistance",
    "paired_test",
]
