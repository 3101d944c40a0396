"""What a table file says: methods, settings, columns, and runs that others start from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_continual.files.config_kind import read_config
from lit_continual.files.printing import printable_errors
from lit_continual.reports import Column, Spread
from lit_continual.runs.checkpoints.spec import Arguments
from lit_continual.stream.section import instantiate
from lit_continual.studies.slurm import read_slurm

FOLDER = "trainer.default_root_dir"  # of a run


@dataclass
class Recipe:
    """A run that others start from.

    Args:
        config: One config file or several, seen from the table's folder.
        options: What goes over them, dotted name -> value. In a value, ``{prepare.NAME}`` is the folder of a run of
            ``prepare``, of the same setting and seed, and ``{seed}`` is the seed: ``data.split.fold: "{seed}"`` with
            ``spread: patients`` cross-validates.
    """

    config: str | list[str]
    options: Arguments = field(default_factory=dict)


@dataclass
class Method(Recipe):
    """A row of the table; without a ``config`` it is the run of ``prepare`` that has its name.

    Args:
        config: As in :class:`Recipe`.
        options: As in :class:`Recipe`.
        paper: The paper's numbers: a list a setting, with a number or null a column.
    """

    config: str | list[str] = ""
    paper: list[list[float | None]] | None = None


@dataclass
class Setting:
    """A part of the table, an entry of ``cases``, in which all methods learn the same stream.

    Args:
        options: What goes over the configs of the methods, dotted name -> value.
        methods: What goes over the options of some methods here, name -> dotted name -> value.
        prepare: What goes over those of the runs of ``prepare``, name -> dotted name -> value.
    """

    options: Arguments = field(default_factory=dict)
    methods: dict[str, Arguments] = field(default_factory=dict)
    prepare: dict[str, Arguments] = field(default_factory=dict)


@dataclass
class Layout:
    """A table file.

    Args:
        methods: Name -> :class:`Method`.
        columns: Heading -> :class:`~lit_continual.reports.Column`.
        cases: Name -> :class:`Setting`.
        baseline: The method that the others are tested against; by default the first.
        prepare: Name -> :class:`Recipe`: runs that methods start from, or later ones of these. One that comes out the
            same for several methods, settings or seeds is run once.
        options: What goes over every config; those of a setting go over it, those of a method over both, and
            those of a method in a setting over all.
        seeds: Seeds of the runs.
        name: Title; by default the name of the file.
        source: Where the paper's numbers are from.
        spread: What mean and standard deviation are over: ``seeds``, or ``patients``, each averaged over the seeds.
        curve: Name of a logged value, such as ``val/dice``, to draw over the training steps of each method.
        over: An option that most methods set, such as ``trainer.callbacks.strength``, to draw the columns over, with
            a line a setting.
        slurm: :class:`~lit_continual.studies.slurm.Slurm`, what a job asks of a cluster.
    """

    methods: dict[str, Any]
    columns: dict[str, Any]
    cases: dict[str, Any] = field(default_factory=lambda: {"all": {}})
    baseline: str = ""
    prepare: dict[str, Any] = field(default_factory=dict)
    options: Arguments = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    name: str = ""
    source: str = ""
    spread: Spread = "seeds"
    curve: str = ""
    over: str = ""
    slurm: Any = field(default_factory=dict)


@printable_errors()
def read_layout(
    path: Path, seeds: Sequence[int] = (), cases: Sequence[str] = (), methods: Sequence[str] = ()
) -> Layout:
    """Read a table file.

    Args:
        path: The file.
        seeds: Seeds in place of those of the file.
        cases: The cases to keep; by default all.
        methods: The methods to keep, beside the baseline; by default all.

    Raises:
        ValueError: If something in it is missing, unknown or does not fit the rest, with the place, or if it has no
            such case or method.
    """
    kinds: dict[str, type[Any]] = {"methods": Method, "columns": Column, "cases": Setting, "prepare": Recipe}
    given = read_config(path, "compare")
    named = {part: dict.fromkeys(given[part]) for part in kinds if isinstance(given.get(part), dict)}
    layout = instantiate(Layout, {**given, **named}, str(path))
    for part, kind in kinds.items():
        sections = given[part] if part in named else getattr(layout, part)
        objects = {str(n): instantiate(kind, s or {}, f"{path}, `{part}`, {n}") for n, s in sections.items()}
        setattr(layout, part, objects)
    layout.slurm = read_slurm(layout.slurm, str(path))
    layout.name, layout.seeds = layout.name or path.stem, list(seeds or layout.seeds)
    layout.baseline = layout.baseline or next(iter(layout.methods), "")
    if wrong := next(_contradictions(layout), ""):
        raise ValueError(f"{path}: {wrong}.")
    _keep(layout, cases, [layout.baseline, *methods] if methods else [], str(path))
    return layout


def _keep(layout: Layout, cases: Sequence[str], methods: Sequence[str], path: str) -> None:
    """Leave out the cases and the methods that nobody asked for."""
    for part, wanted in (("cases", cases), ("methods", methods)):
        if unknown := [name for name in wanted if name not in getattr(layout, part)]:
            raise ValueError(f"{path} has no {unknown[0]} among its `{part}`: {', '.join(getattr(layout, part))}.")
    kept = [number for number, name in enumerate(layout.cases) if not cases or name in cases]
    layout.cases = {name: case for name, case in layout.cases.items() if not cases or name in cases}
    layout.methods = {name: one for name, one in layout.methods.items() if not methods or name in methods}
    for method in layout.methods.values():
        method.paper = method.paper and [method.paper[number] for number in kept]


def _contradictions(layout: Layout) -> Iterator[str]:
    for part in ("methods", "columns", "cases", "seeds"):
        if not getattr(layout, part):
            yield f"`{part}` is empty; name at least one"
    if not all(0 <= seed < 2**32 for seed in layout.seeds):
        yield f"`seeds` are {layout.seeds}, and a seed is from 0 to {2**32 - 1}"
    if len(set(layout.seeds)) < len(layout.seeds):
        yield f"`seeds` has one twice: {layout.seeds}"
    if layout.baseline not in layout.methods:
        yield f"`baseline` is {layout.baseline}, which is none of the methods {', '.join(layout.methods)}"
    over = {name: m.options[layout.over] for name, m in layout.methods.items() if layout.over in m.options}
    if layout.over and not over:
        yield f"`over` is {layout.over}, which none of the methods sets in its `options`"
    for name, value in over.items():
        if not isinstance(value, (int, float, str)):
            yield f"`over` is {layout.over}, which is {value} in method {name}; it needs a number or a word"
    for name, method in layout.methods.items():
        changed = method.options or any(name in setting.methods for setting in layout.cases.values())
        if not method.config and (name not in layout.prepare or changed):
            yield f"method {name} has no `config`: only a run of `prepare` of its name goes without, and has no options"
    for name, setting in layout.cases.items():
        for part in ("methods", "prepare"):
            if unknown := getattr(setting, part).keys() - getattr(layout, part).keys():
                yield f"case {name} has options for `{part}` {', '.join(unknown)}, which the table does not describe"
    given: dict[str, Any] = {"`options`": layout}
    given |= {f"case {name}": setting for name, setting in layout.cases.items()}
    given |= {f"method {name}": method for name, method in layout.methods.items()}
    for place, section in given.items():
        for name, what in (("seed_everything", "the `seeds` of the table do"), (FOLDER, "the table does")):
            if name in section.options:
                yield f"{place} sets `{name}`, which {what}"
    shape = [len(layout.columns)] * len(layout.cases)
    for name, method in layout.methods.items():
        if method.paper is not None and [len(row) for row in method.paper] != shape:
            yield f"`paper` of method {name} needs {len(shape)} lists, one a case, of {shape[0]} numbers, one a column"
