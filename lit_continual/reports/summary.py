"""The numbers of a report: what each run scored, against which reference, and over which seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
import torch
from numpy.typing import NDArray

from lit_continual.metrics.continual_scores import continual_scores
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score

MEASURES = {"acc": "ACC", "forgetting": "Forgetting", "bwt": "BWT", "fwt": "FWT", "intransigence": "Intransigence"}


@dataclass(frozen=True)
class Row:
    """One line of the comparison: a run, or the runs of one name that differ in their seed.

    Attributes:
        label: What the line is called, unique in a report.
        runs: The run, or the runs the line is the mean of.
        values: Mean per measure, under ``acc``, ``forgetting``, ``bwt``, ``fwt``, ``intransigence``, and under
            ``first <experience>`` and ``last <experience>``.
        spreads: Standard deviation over the runs, with ``n - 1`` in the denominator; nan for one run.
    """

    label: str
    runs: tuple[Run, ...]
    values: dict[str, float]
    spreads: dict[str, float]

    @property
    def seeds(self) -> int:
        """How many runs it is of."""
        return len(self.runs)

    def text(self, key: str, score: Score, signed: bool = False) -> str:
        """A value as it is written; a dash for one that the runs do not have."""
        return score.text(self.values.get(key, nan), self.spreads.get(key, nan), signed)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation with ``n - 1`` in the denominator; nan where there are too few values.

    Example:
        >>> mean_std([1.0, 3.0]), mean_std([2.0])
        ((2.0, 1.4142135623730951), (2.0, nan))
    """
    mean = float(np.mean(values)) if len(values) else nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else nan


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run that distinguishes it from the others: its name, then its seed, then its folder.

    Example:
        >>> from pathlib import Path
        >>> a, b = (Run(Path(str(s)), "lwf", "continual", s, "finished", (), (), {}) for s in (0, 1))
        >>> labels([a]), labels([a, b])
        (['lwf'], ['lwf, seed 0', 'lwf, seed 1'])
    """
    names = [run.title for run in runs]
    seeded = [f"{n}, seed {run.seed}" if names.count(n) > 1 else n for n, run in zip(names, runs, strict=True)]
    return [f"{s} ({run.folder})" if seeded.count(s) > 1 else s for s, run in zip(seeded, runs, strict=True)]


def numbers_to_log(run: Run, after: int = -1) -> dict[str, float]:
    """What loggers are given after an experience, nan for what is undefined.

    ``matrix/<score>/<experience>`` is the newest row of a matrix, and ``stream/<score>/<acc|bwt|...>`` follows from it.
    """
    found: dict[str, float] = {}
    for score in run.scores:
        row = zip(run.experiences, run.values(score)[after], strict=True)
        found |= {f"matrix/{score.name}/{on.name}": float(value) for on, value in row}
        found |= {f"stream/{score.name}/{name}": value for name, value in measures(run, score).items()}
    return found


def scores_of(runs: Iterable[Run]) -> list[Score]:
    """Every score that any of the runs has, in the order of their first appearance."""
    return list({score.name: score for run in runs for score in run.scores}.values())


def experiences_of(runs: Iterable[Run]) -> list[str]:
    """The name of every experience that any of the runs has, in the order of their first appearance."""
    return list(dict.fromkeys(e.name for run in runs for e in run.experiences))


def learnt(run: Run, score: Score) -> NDArray[np.float64]:
    """Score on each experience right after it was learnt, shape ``(T,)``; nan for what joint training cannot say."""
    size = len(run.experiences)
    return np.full(size, nan) if run.mode == "joint" else run.values(score).diagonal().copy()


def last(run: Run, score: Score) -> NDArray[np.float64]:
    """Score on each experience after the last step so far, shape ``(T,)``."""
    R = run.values(score)
    return np.array([R[run.last_at(j), j] if run.last_at(j) >= 0 else nan for j in range(len(R))])


def references(run: Run, runs: Iterable[Run]) -> list[Run]:
    """The runs that ``run`` can be held against: joint ones on the same experiences, or else single ones.

    Of several, the one with the seed of ``run``; where none has it, all of them, to be averaged.
    """
    if run.mode != "continual":
        return []
    stream = [(e.name, list(e.classes)) for e in run.experiences]
    alike = [r for r in runs if r.finished and [(e.name, list(e.classes)) for e in r.experiences] == stream]
    alike = [other for other in alike if other.evaluated == run.evaluated]
    for mode in ("joint", "single"):
        others = [other for other in alike if other.mode == mode]
        if others:
            return [other for other in others if other.seed == run.seed][:1] or others
    return []


def measures(run: Run, score: Score, runs: Sequence[Run] = ()) -> dict[str, float]:
    """ACC, forgetting, BWT, FWT and intransigence of one run over its steps so far.

    A run with ``k`` of ``T`` steps is measured as a stream of ``k`` experiences. The bounds have no steps: of joint
    and single training only ACC is defined, the mean over the experiences.

    Args:
        run: The run.
        score: One of its scores.
        runs: Where to look for a reference, see :func:`references`.
    """
    if run.mode != "continual":
        return {**dict.fromkeys(MEASURES, nan), "acc": float(last(run, score).mean())}
    k, others = run.steps, references(run, runs)
    if k == 0:
        return dict.fromkeys(MEASURES, nan)
    bound = torch.as_tensor(np.mean([last(o, score)[:k] for o in others], axis=0)) if others else None
    R = torch.as_tensor(run.values(score)[:k, :k])
    chance = None if score.baseline is None else torch.full((k,), score.baseline)
    found = continual_scores(R, baseline=chance, reference=bound, higher_is_better=score.higher_is_better)
    return {name: float(found[name]) for name in MEASURES}


def summary(runs: Sequence[Run], score: Score) -> list[Row]:
    """The comparison: runs of one name with different seeds as one line and then each, the others as they are."""
    groups: dict[object, list[Row]] = {}
    for run, label in zip(runs, labels(runs), strict=True):
        values = _values(run, score, runs)
        row = Row(label, (run,), values, dict.fromkeys(values, nan))
        groups.setdefault((run.title, run.mode, tuple(e.name for e in run.experiences)), []).append(row)
    return [row for rows in groups.values() for row in [*_averaged(rows), *rows]]


def _averaged(rows: list[Row]) -> list[Row]:
    """The mean of the runs of one name, if they are of several seeds."""
    chosen = [row for row in rows if row.runs[0].finished]  # an unfinished run is at another step
    runs = tuple(row.runs[0] for row in chosen)
    if not len({run.seed for run in runs}) == len(runs) > 1:
        return []
    found = {key: mean_std([row.values[key] for row in chosen]) for key in chosen[0].values}
    means, spreads = ({key: pair[i] for key, pair in found.items()} for i in (0, 1))
    return [Row(f"{runs[0].title}, mean of {len(runs)} seeds", runs, means, spreads)]


def _values(run: Run, score: Score, runs: Sequence[Run]) -> dict[str, float]:
    values = measures(run, score, runs)
    for experience, first, final in zip(run.experiences, learnt(run, score), last(run, score), strict=True):
        values |= {f"first {experience.name}": float(first), f"last {experience.name}": float(final)}
    return values


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
        defined = [value for value in values if isfinite(value)]
        means.append(ClassMean(*key, score.name, *mean_std(defined), len(defined), len(values) - len(defined)))
    return means
