"""The numbers of a table: methods by settings, means over seeds, tests against a baseline, and what a paper found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import isfinite, nan
from typing import Any, Literal

import numpy as np

from lit_continual.metrics import PairedTest, paired_test
from lit_continual.reports.summary import learnt, mean_std, measures
from lit_continual.runs.experience import Facts
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score

LEVEL = 0.05
Spread = Literal["seeds", "patients"]
Measure = Literal[
    "acc", "bwt", "forgetting", "fwt", "intransigence", "plasticity", "time_saved", "seconds", "memory", "checkpoint"
]
COSTS = {  # measures that are of a run, not of a score
    "time_saved": Score("time saved", unit="%"),
    "seconds": Score("training time", False, "s"),
    "memory": Score("memory", False, "MB"),
    "checkpoint": Score("checkpoint", False, "MB"),
}


@dataclass(frozen=True)
class Column:
    """What a column of a table shows: a score on one experience, or a measure over all.

    Args:
        score: Name of the score, such as ``dice`` or ``assd``.
        experience: Which experience it is of: its name, or its number from 0, where negative ones count from the end.
        row: ``last``, after the last experience, or ``learnt``, just after that one.
        measure: In place of an experience: ``acc``, ``bwt``, ``forgetting``, ``fwt`` or ``intransigence``;
            ``plasticity``, the mean over the experiences of each just after it was learnt; what the stream costs:
            ``seconds`` of training, ``memory``, the MB that methods and exemplars keep of the past in the end, and
            ``checkpoint``, the MB of the last checkpoint; or ``time_saved``, the share of the training time of a method
            that was not needed, in percent.
        against: The method whose training time that is, with the same seed.
        label: One class of the experience, in place of the mean over all.
    """

    score: str = "dice"
    experience: int | str | None = None
    row: Literal["last", "learnt"] = "last"
    measure: Measure | None = None
    against: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if (self.experience is None) == (self.measure is None):
            raise ValueError(f"A column has either an `experience` or a `measure`, got {self}")
        if self.label is not None and self.measure is not None:
            raise ValueError(f"A `label` is of an `experience`, not of a `measure`, got {self}")
        if (self.measure == "time_saved") != (self.against is not None):
            raise ValueError(f"`time_saved` goes with `against`, a method, and nothing else does, got {self}")

    def at(self, run: Run) -> tuple[int, int] | None:
        """Row and column of the result matrix; ``None`` if the run has no such experience."""
        names, wanted = [e.name for e in run.experiences], self.experience
        if not isinstance(wanted, int):
            on = names.index(wanted) if wanted in names else None
        else:
            on = range(len(names))[wanted] if -len(names) <= wanted < len(names) else None
        return None if on is None else (run.last_at(on) if self.row == "last" else run.learnt_at(on), on)

    def value(self, run: Run, runs: Sequence[Run]) -> float:
        """The number of one run; ``runs`` are searched for a reference."""
        score = self.of([run])
        if self.measure == "time_saved":
            whole = [_seconds(other) for other in runs if (other.name, other.seed) == (self.against, run.seed)]
            return 100 * (1 - _seconds(run) / whole[0]) if whole and whole[0] > 0 else nan
        if self.measure in COSTS:
            return _cost(run, self.measure)
        if self.measure == "plasticity":
            return float(np.mean(learnt(run, score)))
        if self.measure is not None:
            return measures(run, score, runs)[self.measure]
        if self.label is None:
            place = self.at(run)
            return nan if place is None else float(run.values(score)[place])
        return mean_std([value for value in self._scores(run).values() if isfinite(value)])[0]

    def of(self, runs: Sequence[Run]) -> Score:
        """The score of the runs that has the column's name."""
        if self.measure in COSTS:
            return COSTS[self.measure]
        return next((s for run in runs for s in run.scores if s.name == self.score), Score(self.score))

    def patients(self, runs: Sequence[Run]) -> dict[str, float]:
        """Mean over volumes, classes and runs of each patient; nan if any of them is undefined, and for a measure."""
        found: dict[str, list[float]] = {}
        for run in runs if self.measure is None else ():
            for (patient, *_), value in self._scores(run).items():
                found.setdefault(patient, []).append(value)
        return {patient: float(np.mean(values)) for patient, values in found.items()}

    def _scores(self, run: Run) -> dict[tuple[str, str, str], float]:
        """The score of each volume, named by its patient and itself, and class."""
        cases = [c for c in run.cases if (c.after, c.on) == self.at(run) and self.label in (None, c.label)]
        return {(case.patient, case.volume, case.label): case.values.get(self.score, nan) for case in cases}


def _seconds(run: Run) -> float:
    return sum(facts.seconds or 0.0 for facts in run.facts)


def _cost(run: Run, measure: str) -> float:
    if measure == "seconds":
        return _seconds(run) or nan
    last = run.facts[-1] if run.facts else Facts()
    if measure == "checkpoint":
        return nan if last.checkpoint_bytes is None else last.checkpoint_bytes / 1e6
    kept = [facts.memory_bytes for facts in run.facts if facts.memory_bytes is not None]
    return kept[-1] / 1e6 if kept else nan


@dataclass(frozen=True)
class Entry:
    """Mean and standard deviation (n - 1) over ``seeds`` runs or their patients, the paper's number, and a test.

    The test is a paired one over the patients, each averaged over the seeds, against the baseline of the setting.
    """

    mean: float
    std: float
    seeds: int
    paper: float = nan
    test: PairedTest | None = None

    @property
    def differs(self) -> bool:
        """Whether the test says so at the 5 % level, without a correction for the number of tests."""
        return self.test is not None and self.test.p_value < LEVEL

    def text(self, score: Score) -> str:
        """The number as it is written, with a star where it differs."""
        return score.text(self.mean, self.std) + ("*" if self.differs else "")


@dataclass(frozen=True, eq=False)
class Line:
    """A method in one setting: its finished runs, one a seed, and an entry a column."""

    method: str
    runs: tuple[Run, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A table in whole.

    Attributes:
        name: Its title.
        columns: Column by heading.
        settings: The lines of each setting, in order.
        baseline: The method that the others are tested against.
        seeds: How many there are when everything is finished.
        source: Where the paper's numbers are from; "" if there are none.
        spread: What the standard deviations are over.
        curve: What is drawn over the training steps; "" for nothing.
        over: The option that the columns are drawn over; "" for none.
        values: Its value in each method.
    """

    name: str
    columns: Mapping[str, Column]
    settings: Mapping[str, Sequence[Line]]
    baseline: str
    seeds: int
    source: str = ""
    spread: Spread = "seeds"
    curve: str = ""
    over: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def drawn(self) -> dict[str, dict[str, dict[Any, list[float]]]]:
        """For each heading and setting, the numbers of the seeds by the value of the option."""
        panels: dict[str, dict[str, dict[Any, list[float]]]] = {heading: {} for heading in self.columns}
        for setting, lines in self.settings.items():
            for (heading, column), line in product(self.columns.items(), lines):
                numbers = [x for run in line.runs if isfinite(x := column.value(run, runs_of(lines)))]
                if numbers and line.method in self.values:
                    panels[heading].setdefault(setting, {}).setdefault(self.values[line.method], []).extend(numbers)
        return panels

    def label(self, line: Line) -> str:
        """The method, and how many of its runs are finished, as long as some are not."""
        missing = self.seeds - len(line.runs)
        return f"{line.method} ({len(line.runs)} of {self.seeds} seeds)" if missing else line.method

    def scored(self, line: Line) -> list[tuple[Entry, Score]]:
        """The entries of a line, and what their numbers are."""
        runs = [run for lines in self.settings.values() for run in runs_of(lines)]
        return [(entry, column.of(runs)) for entry, column in zip(line.entries, self.columns.values(), strict=True)]


def runs_of(lines: Iterable[Line]) -> list[Run]:
    """The runs of several methods."""
    return [run for line in lines for run in line.runs]


def lines_of(
    runs: Mapping[str, Sequence[Run]],
    columns: Sequence[Column],
    baseline: str,
    paper: Mapping[str, Sequence[float | None]],
    spread: Spread = "seeds",
) -> list[Line]:
    """The lines of one setting.

    Args:
        runs: Finished runs of each method, of seeds that differ.
        columns: What to show of them.
        baseline: The method to test against.
        paper: The paper's number of each method and column, as far as it has them.
        spread: Whether mean and standard deviation are over the runs, or over the patients, each averaged over the
            runs. A measure has no patients, and is over the runs.
    """
    everyone = [run for found in runs.values() for run in found]
    lines = []
    for method, found in runs.items():
        printed = paper.get(method) or [None] * len(columns)
        entries = []
        for column, number in zip(columns, printed, strict=True):
            values = [value for run in found if isfinite(value := column.value(run, everyone))]
            seeds, patients = len(values), column.patients(found)
            if spread == "patients" and patients:
                values = [value for value in patients.values() if isfinite(value)]
            test = None if method == baseline else _test(column, runs.get(baseline, ()), found)
            entries.append(Entry(*mean_std(values), seeds, nan if number is None else number, test))
        lines.append(Line(method, tuple(found), tuple(entries)))
    return lines


def _test(column: Column, first: Sequence[Run], second: Sequence[Run]) -> PairedTest | None:
    common = {run.seed for run in first} & {run.seed for run in second}
    one, other = (column.patients([run for run in runs if run.seed in common]) for runs in (first, second))
    test = paired_test(one, other) if one and other else None
    return test if test is not None and isfinite(test.p_value) else None
