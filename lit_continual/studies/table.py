"""A table of experiments: methods by settings by seeds, each a run, and what they come to."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_continual.files.outputs import require_folder
from lit_continual.files.plain_data import fits
from lit_continual.files.printing import show
from lit_continual.files.whole_files import read_yaml
from lit_continual.reports import Comparison, comparison_table, lines_of, write_comparison
from lit_continual.reports.page import seconds_text
from lit_continual.runs.experience import LONGEST
from lit_continual.runs.run import Run
from lit_continual.stream.stream import SCORES
from lit_continual.stream.tracking import announce
from lit_continual.studies.cell import Cell, described
from lit_continual.studies.cells import run_cells
from lit_continual.studies.launch import LOCAL, Launch
from lit_continual.studies.layout import Layout, Recipe, read_layout

Check = Callable[[Sequence[str]], Any]
Options = Mapping[str, Any]
REFERENCE = re.compile(r"\{prepare\.([^{}]*)\}")
SEED = "{seed}"


class RunTable:
    """The runs of a table.

    The name of a run's folder has a digest of its configs, options and seed, and of the runs that it starts from. So
    a folder holds what the table asks for: after a change the runs that it concerns are made anew, and no other.

    Args:
        path: The table file.
        layout: What it says.
        output: Folder of the runs.

    Raises:
        ValueError: If a config is missing or a reference leads nowhere.
    """

    def __init__(self, path: Path, layout: Layout, output: Path) -> None:
        self.path, self.layout, self.output = path, layout, output
        self.digests: dict[Path, str] = {}
        self.cells: dict[Path, Cell] = {}  # each comes after those that it starts from
        self.runs = {
            (setting, method, seed): self._method(setting, method, seed)
            for setting in layout.cases
            for seed in layout.seeds
            for method in layout.methods
        }

    def _method(self, setting: str, name: str, seed: int) -> Cell:
        recipe = self.layout.methods[name]
        if not recipe.config:
            return self._prepared(setting, name, seed)
        own = self.layout.cases[setting]
        options = [own.options, recipe.options, own.methods.get(name, {})]
        return self._cell((setting, name), recipe, options, setting, seed, list(self.layout.prepare))

    def _prepared(self, setting: str, name: str, seed: int) -> Cell:
        recipe, names = self.layout.prepare[name], list(self.layout.prepare)
        options = [recipe.options, self.layout.cases[setting].prepare.get(name, {})]
        return self._cell(("prepare", name), recipe, options, setting, seed, names[: names.index(name)])

    def _cell(
        self, place: tuple[str, str], recipe: Recipe, more: list[Options], setting: str, seed: int, known: list[str]
    ) -> Cell:
        """The cell at a place in the folder, which may start from the ``known`` of the runs to prepare."""
        options = [option for layer in (self.layout.options, *more) for option in layer.items()]
        wanted = dict.fromkeys(REFERENCE.findall(json.dumps(options)))
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(
                f"{self.path}: {' '.join(place)} starts from {{prepare.{unknown[0]}}}, but `prepare` has"
                f" {', '.join(known) or 'nothing'} before it. Correct the name or the order."
            )
        starts = {name: self._prepared(setting, name, seed).folder for name in wanted}
        seed = dict(options).get("seed_everything", seed)
        mine = [("seed_everything", seed), ("stream.name", place[1])]  # a name is text, whatever stands in it
        configs = [recipe.config] if isinstance(recipe.config, str) else recipe.config
        files = [self.path.parent / file for file in configs]
        read, started = [read_yaml(file) for file in files], {name: self.digests[f] for name, f in starts.items()}
        made_of = [read, [*mine, *options], started]
        digest = hashlib.sha256(json.dumps(made_of, default=str, sort_keys=True).encode()).hexdigest()[:8]
        names = [re.sub(r"[^\w.+-]+", "_", part)[:LONGEST].strip(".") or "_" for part in place]
        folder = self.output.joinpath(*names, f"seed_{seed}-{digest}")
        arguments = [f"--config={file}" for file in files]
        arguments += [f"--{name}={value}" for name, value in mine]
        arguments += [f"--{name}={_text(value, starts).replace(SEED, str(seed))}" for name, value in options]
        self.digests[folder] = digest
        cell = Cell(f"{', '.join(place)}, seed {seed}", folder, tuple(arguments), tuple(starts.values()))
        return self.cells.setdefault(folder, cell)

    def check(self, parse: Check) -> None:
        """Refuse what cannot run or be shown, before anything is trained.

        Raises:
            ValueError: If a config does not take an option, or a column is of an experience or a score that is not
                there.
        """
        streams = []
        first = {cell.folder for (_, _, seed), cell in self.runs.items() if seed == self.layout.seeds[0]}
        for cell in reversed(self.cells.values()):
            if cell.folder not in first:
                continue  # another seed of it
            first.update(cell.after)
            try:
                stream = parse(cell.arguments).stream
            except ValueError as error:
                raise ValueError(f"{self.path}, {cell.name}: {error}") from error
            if not stream.experiences:
                raise ValueError(f"{self.path}, {cell.name}: the config has no `stream.experiences`. Name one or more.")
            if cell in self.runs.values():
                self._check_columns(cell, stream)
                streams.append(stream)
        self._check_names(streams)

    def _check_names(self, streams: Sequence[Any]) -> None:
        """Refuse a column of an experience that no run has, and that would stay empty."""
        named = dict.fromkeys(experience.name for stream in streams for experience in stream.experiences)
        for heading, column in self.layout.columns.items():
            if isinstance(column.experience, str) and column.experience not in named:
                raise ValueError(
                    f"{self.path}, column {heading}: the experience is {column.experience}, and the runs have"
                    f" {', '.join(named)}."
                )

    def _check_columns(self, cell: Cell, stream: Any) -> None:
        scores, count, methods = list(stream.scores or SCORES), len(stream.experiences), self.layout.methods
        for heading, column in self.layout.columns.items():
            wrong = ""
            if column.against is None and column.score not in scores:
                wrong = f"the score is {column.score}, and {cell.name} has {', '.join(scores)}."
            elif column.against not in (None, *methods):
                wrong = f"`against` is {column.against}, which is none of the methods {', '.join(methods)}."
            elif isinstance(column.experience, int) and not -count <= column.experience < count:
                wrong = (
                    f"the experience is {column.experience}, and {cell.name} has {count}, counted from 0. Correct it"
                )
                wrong += ", or give its name."
            if wrong:
                raise ValueError(f"{self.path}, column {heading}: {wrong}")

    def found(self) -> Comparison:
        """What the finished runs come to."""
        layout, settings = self.layout, {}
        for number, setting in enumerate(layout.cases):
            cells = {m: [self.runs[setting, m, seed] for seed in layout.seeds] for m in layout.methods}
            runs = {m: [Run.load(cell.folder) for cell in some if cell.finished] for m, some in cells.items()}
            paper = {name: method.paper[number] for name, method in layout.methods.items() if method.paper}
            settings[setting] = lines_of(runs, list(layout.columns.values()), layout.baseline, paper, layout.spread)
        facts = (layout.baseline, len(layout.seeds), layout.source, layout.spread, layout.curve, layout.over)
        values = {name: m.options[layout.over] for name, m in layout.methods.items() if layout.over in m.options}
        return Comparison(layout.name, layout.columns, settings, *facts, values)


def compare(
    config: Path,
    parse: Check,
    launch: Launch = LOCAL,
    seeds: Sequence[int] | None = None,
    output: Path | None = None,
    cases: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> None:
    """Run what is missing of a table, then show and write it.

    Args:
        config: The table file.
        parse: Parses the arguments of ``fit``; raises a ValueError that says what is wrong with them.
        launch: How to run them.
        seeds: Seeds in place of those of the file.
        output: Folder of the runs and of the table; by default ``runs/tables/<file>``.
        cases: The cases to run and show; by default all.
        methods: The methods to run and show, beside the baseline; by default all.

    Raises:
        ValueError: If the table is wrong, or has no such case or method.
        SystemExit: If runs failed.
    """
    layout = read_layout(config, seeds or (), cases or (), methods or ())
    table = RunTable(config, layout, output or Path("runs", "tables", config.stem))
    require_folder(table.output)
    table.check(parse)
    cells = list(table.cells.values())
    if launch.launcher == "print":
        launch.write(cells, table.output)
    failed = _run(table, cells, launch) if launch.runs else 0
    found = table.found()
    show(comparison_table(found), soft_wrap=False)
    show(f"Table: {write_comparison(found, table.output / 'table')}")
    if failed:
        sys.exit(f"lit-continual: error: {failed} runs failed or were not begun; the same command tries them again.")


def _run(table: RunTable, cells: Sequence[Cell], launch: Launch) -> int:
    """Run the cells, say how far it is, and return how many failed."""
    left = [cell for cell in cells if not cell.finished]
    announce(f"{len(cells)} runs, {len(cells) - len(left)} of them finished before; {launch.in_words}")
    failed, begin, trained = 0, time.monotonic(), training_seconds(left)
    with launch.open(table.output, table.layout.slurm, table.layout.name) as pool:
        for number, (cell, error) in enumerate(run_cells(cells, pool), start=1):
            failed += bool(error)
            remaining = (time.monotonic() - begin) / number * (len(left) - number)
            ahead = f"; about {seconds_text(remaining)} to go" if number < len(left) else ""
            announce(f"{len(cells) - len(left) + number}/{len(cells)} {cell.name}: {error or 'finished'}{ahead}")
    if left:
        seconds, trained = time.monotonic() - begin, training_seconds(left) - trained
        announce(f"{seconds_text(seconds)}, in which the runs trained for {seconds_text(trained)}")
    return failed


def training_seconds(cells: Sequence[Cell]) -> float:
    """How long the fits of cells have trained so far, by their ``run.json``."""
    known = [described(cell.folder).get("experiences") for cell in cells]
    learnt = [experience for found in known if fits(found, list[dict[str, Any]]) for experience in found or ()]
    return sum(float(seconds) for one in learnt if fits(seconds := one.get("seconds"), float))


def _text(value: Any, starts: Mapping[str, Path]) -> str:
    """A value on the command line, with the folders that it refers to."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda found: str(starts[found[1]]), value)
    return REFERENCE.sub(lambda found: json.dumps(str(starts[found[1]]))[1:-1], json.dumps(value))
