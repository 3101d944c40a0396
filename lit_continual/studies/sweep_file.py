"""A W&B sweep file, read for a sweep without a server."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import inf, prod
from pathlib import Path
from typing import Any, Literal

from lit_continual.files.config_kind import read_config
from lit_continual.files.printing import printable_errors
from lit_continual.stream.section import instantiate
from lit_continual.studies.slurm import read_slurm

CHOICES = ("categorical", "constant")
LARGEST = 100_000  # trials of a grid
SET_HERE = {"config", "overwrite", "resume", "stream.name", "trainer.default_root_dir", "trainer.enable_progress_bar"}
RANGES = ("int_uniform", "uniform", "q_uniform", "log_uniform", "log_uniform_values")


@dataclass
class Metric:
    """What a sweep is about.

    Args:
        name: As it is logged; the last value of a run counts.
        goal: Whether less of it is better, or more.
        target: Value at which no new run starts; not used here.
    """

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None


@dataclass
class Hyperband:
    """Which runs to end early: at every band, those that are not in the best ``1 / eta`` of what came there.

    Args:
        type: The only one there is.
        min_iter: First band, counted in values of the metric; the others are ``min_iter * eta ** k``.
        max_iter: Instead: ``s`` bands at ``max_iter / eta``, ``max_iter / eta ** 2``, ...
        s: Number of these bands.
        eta: A whole number here, at least 2.
        strict: Always so here.
    """

    type: Literal["hyperband"]
    min_iter: int | None = None
    max_iter: int | None = None
    s: int | None = None
    eta: int = 3
    strict: bool = True

    def __post_init__(self) -> None:
        if self.eta < 2:
            raise ValueError(f"`eta` must be a whole number, at least 2, got {self.eta}")
        if (self.min_iter is None) == (self.max_iter is None or self.s is None):
            raise ValueError("Hyperband needs either `min_iter`, or `max_iter` and `s`")
        if self.first < 1:
            raise ValueError(f"The first band would be at {self.first} values; take other numbers")

    @property
    def first(self) -> int:
        """The first band."""
        return self.min_iter if self.min_iter is not None else int((self.max_iter or 0) / self.eta ** (self.s or 1))

    @property
    def last(self) -> float:
        """No run is ended behind this many values."""
        return float("inf") if self.max_iter is None else self.max_iter / self.eta


@dataclass
class Parameter:
    """Where the values of an option come from: ``values``, one ``value``, or a range.

    Args:
        value: The only value.
        values: The values to choose from.
        min: Lower end of a range.
        max: Upper end of a range.
        distribution: ``constant``, ``categorical``, ``int_uniform``, ``uniform``, ``q_uniform`` (in steps of ``q``),
            ``log_uniform_values``, or ``log_uniform``, whose ends are natural logarithms; where it is left out, found
            out from the others.
        q: Step of a range.
    """

    value: Any = None
    values: list[Any] | None = None
    min: float | None = None
    max: float | None = None
    distribution: str | None = None
    q: float = 1

    def __post_init__(self) -> None:
        if self.values is None and (self.min is None or self.max is None):
            self.values = [self.value]
        whole = {type(self.min), type(self.max)} == {int}
        inferred = CHOICES[0] if self.values is not None else "int_uniform" if whole else "uniform"
        self.distribution = self.distribution or inferred
        allowed = RANGES if self.values is None else CHOICES
        if self.distribution not in allowed:
            raise ValueError(f"The distribution {self.distribution} cannot be searched here; use {', '.join(allowed)}")
        if self.values == []:
            raise ValueError("`values` is empty; name at least one")
        if self.values is None and not -inf < self.min <= self.max < inf:  # type: ignore[operator]  # a range has both
            raise ValueError(f"`min` must be a number that is not above `max`, got {self.min} and {self.max}")
        if self.distribution == "log_uniform_values" and not self.min > 0:  # type: ignore[operator]
            raise ValueError(f"`min` of log_uniform_values must be above 0, got {self.min}")
        if self.distribution == "log_uniform" and not -700 <= self.min <= self.max <= 700:  # type: ignore[operator]
            raise ValueError(f"the ends of log_uniform are natural logarithms, got {self.min} and {self.max}")
        if not 0 < self.q < inf:
            raise ValueError(f"`q` must be above 0, got {self.q}")


@dataclass
class SweepFile:
    """What a sweep file says; what only concerns the server is taken and left alone.

    Args:
        method: ``grid``, ``random`` or ``bayes``.
        metric: :class:`Metric`.
        parameters: Option of ``fit`` -> :class:`Parameter`.
        command: How a run is started: ``lit-continual fit`` with its arguments, among them ``${args}``.
        program: What ``${program}`` in the command is.
        run_cap: Most runs of the sweep.
        early_terminate: :class:`Hyperband`; by default every run goes on to its end.
        name: Of the sweep; by default that of the file.
        project: Not used here, as ``entity`` and ``description``.
        slurm: :class:`~lit_continual.studies.slurm.Slurm`, what a job asks of a cluster; W&B leaves it alone.
    """

    method: Literal["grid", "random", "bayes"]
    metric: Any
    parameters: dict[str, Any]
    command: list[str] = field(default_factory=list)
    program: str = ""
    run_cap: int | None = None
    early_terminate: Any = None
    name: str = ""
    project: str | None = None
    entity: str | None = None
    description: str | None = None
    slurm: Any = field(default_factory=dict)

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of values, the last parameter changing fastest."""
        return [dict(zip(self.parameters, values, strict=True)) for values in product(*self._choices())]

    def samples(self) -> list[dict[str, Any]]:
        """A few combinations in which every value, or end of a range, comes up; to try out the options."""
        choices = self._choices()
        longest = max(map(len, choices))
        return [{name: c[i % len(c)] for name, c in zip(self.parameters, choices, strict=True)} for i in range(longest)]

    def arguments(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The arguments of ``fit`` for a combination of values; ``${envvar:NAME}`` stands in them as it is."""
        texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in values.items()}
        start = self.command.index("fit") + 1
        options = [[f"--{n}={t}" for n, t in texts.items()] if a == "${args}" else [a] for a in self.command[start:]]
        return tuple(argument for part in options for argument in part)

    def _choices(self) -> list[list[Any]]:
        return [p.values if p.values is not None else [p.min, p.max] for p in self.parameters.values()]


@printable_errors()
def read_sweep(path: Path) -> SweepFile:
    """Read a sweep file.

    Raises:
        ValueError: If something in it is missing, unknown or cannot be run without a server, with the place.
    """
    sweep = instantiate(SweepFile, read_config(path, "sweep"), str(path))
    sweep.name, sweep.metric = sweep.name or path.stem, instantiate(Metric, sweep.metric, f"{path}, `metric`")
    sweep.slurm = read_slurm(sweep.slurm, str(path))
    sweep.parameters = {n: _parameter(s, f"{path}, parameter {n}") for n, s in sweep.parameters.items()}
    if sweep.early_terminate is not None:
        sweep.early_terminate = instantiate(Hyperband, sweep.early_terminate, f"{path}, `early_terminate`")
    if set_here := sorted(sweep.parameters.keys() & SET_HERE):
        raise ValueError(f"{path}: `{set_here[0]}` is set by the sweep, for each run. Remove it from `parameters`.")
    if not sweep.parameters:
        raise ValueError(f"{path}: `parameters` is empty; name at least one option and its values.")
    if ranges := [n for n, p in sweep.parameters.items() if p.values is None and sweep.method == "grid"]:
        raise ValueError(f"{path}: a grid needs `values`, and {', '.join(ranges)} has a range. Name values.")
    if sweep.method == "grid" and (count := prod(len(p.values or ()) for p in sweep.parameters.values())) > LARGEST:
        raise ValueError(f"{path}: the grid has {count} trials, and {LARGEST} are the most. Name fewer `values`.")
    words = [sweep.program if word == "${program}" else word for word in sweep.command]
    before = words[: words.index("fit")] if "fit" in words else []
    if not any(re.search(r"lit[-_]continual", word) for word in before) or "${args}" not in words:
        raise ValueError(
            f"{path}: `command` must be such as [${{env}}, lit-continual, fit, --config, FILE, ${{args}}], got"
            f" {sweep.command}."
        )
    if unknown := [w for w in words[len(before) :] if w.startswith("${") and w != "${args}" and "${envvar:" not in w]:
        raise ValueError(f"{path}: {unknown[0]} in `command` is not known here; pass values by ${{args}}.")
    return sweep


def _parameter(section: Any, place: str) -> Parameter:
    if isinstance(section, dict) and "parameters" in section:
        raise ValueError(f"{place}: nested parameters cannot be passed to `fit`. Write dotted names.")
    parameter = instantiate(Parameter, section, place)
    # Whole numbers stay so: `int | float` is read by whichever of the two is first, and Python may give that of others.
    whole = {name: section[name] for name in ("min", "max", "q") if type(section.get(name)) is int}
    parameter = replace(parameter, **whole, distribution=section.get("distribution"))
    if not {"value", "values"} & set(section) and (parameter.min is None or parameter.max is None):
        raise ValueError(f"{place}: it needs `value`, `values`, or `min` and `max`.")
    return parameter
