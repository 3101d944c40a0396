"""Means over the cases of a class, with what was left out."""

from dataclasses import dataclass
from math import nan

import numpy as np

from lit_continual.runs.run import Run
from lit_continual.runs.score import Score


@dataclass(frozen=True)
class ClassMean:
    """One score of one class, over the volumes of experience ``on``, after experience ``after``.

    Attributes:
        mean: Mean over the cases in which the score is defined; nan if there is none.
        std: Their standard deviation, with ``n - 1`` in the denominator; nan for fewer than two.
        n: How many cases that are.
        undefined: How many more there were, left out because the score is undefined in them.
    """

    after: int
    on: int
    label: str
    score: str
    mean: float
    std: float
    n: int
    undefined: int


def class_means(run: Run, score: Score) -> list[ClassMean]:
    """Means of one score over the cases of a run, by step, experience and class in the order of the file."""
    groups: dict[tuple[int, int, str], list[float]] = {}
    for case in run.cases:
        groups.setdefault((case.after, case.on, case.label), []).append(case.values.get(score.name, nan))
    means = []
    for key, values in groups.items():
        defined = [value for value in values if not np.isnan(value)]
        mean = float(np.mean(defined)) if defined else nan
        std = float(np.std(defined, ddof=1)) if len(defined) > 1 else nan
        means.append(ClassMean(*key, score.name, mean, std, len(defined), len(values) - len(defined)))
    return means
