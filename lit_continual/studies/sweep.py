"""A sweep over options of ``fit``, from a W&B sweep file, without a server."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_continual.files.outputs import require_folder
from lit_continual.files.printing import show
from lit_continual.reports import MEASURES, Sweep, sweep_table, write_sweep
from lit_continual.stream.stream import SCORES
from lit_continual.stream.tracking import announce
from lit_continual.studies.cell import Cell, with_variables
from lit_continual.studies.cells import PAUSE
from lit_continual.studies.launch import LOCAL, Launch
from lit_continual.studies.sweep_file import SweepFile, read_sweep
from lit_continual.studies.trials import Trials


def sweep(
    config: Path,
    parse: Callable[[Sequence[str]], Any],
    launch: Launch = LOCAL,
    count: int | None = None,
    output: Path | None = None,
    csv: bool = False,
) -> None:
    """Run what is missing of a sweep, then show and write it.

    Args:
        config: The sweep file.
        parse: Parses the arguments of ``fit``; raises a ValueError that says what is wrong with them.
        launch: How to run the trials.
        count: Most trials, in place of the file's ``run_cap``; a random or Bayes sweep needs either.
        output: Folder of the sweep; by default ``runs/sweeps/<file>``.
        csv: Track by CSV alone, whatever the file's command says.

    Raises:
        ValueError: If the file or a number is wrong, or the folder holds another sweep.
        SystemExit: If trials failed.
    """
    file = read_sweep(config)
    folder = output or Path("runs", "sweeps", config.stem)
    require_folder(folder)
    limit = _limit(file, config, count)
    _require_possible(file, config, launch)
    more = ("--trainer.logger=true",) if csv else ()
    for values in file.samples():
        try:
            parsed = parse(with_variables([*file.arguments(values), *more]))
        except ValueError as error:
            tried = ", ".join(f"{name} {value}" for name, value in values.items())
            raise ValueError(f"{config}, with {tried}: {error}") from error
        if not parsed.stream.experiences:
            raise ValueError(f"{config}: the config in `command` has no `stream.experiences`. Name one or more.")
        _require_logged(file, config, parsed.stream)
    trials = Trials(file, folder, limit)
    trials.collect()
    if launch.launcher == "print":
        launch.write(trials.cells(*more), folder)
    failed = _run(trials, launch, more) if launch.runs else 0
    found = Sweep(file.name, file.metric.name, file.metric.goal, tuple(trials.results()))
    show(sweep_table(found), soft_wrap=False)
    show(f"Sweep: {write_sweep(found, folder / 'report')}")
    if failed:
        sys.exit(f"lit-continual: error: {failed} trials failed; the same command tries them again.")


def _limit(file: SweepFile, config: Path, count: int | None) -> int:
    for name, number in (("--count", count), ("`run_cap`", file.run_cap)):
        if number is not None and number < 1:
            raise ValueError(f"{config}: {name} is {number}, and a sweep has at least one trial.")
    wanted = [n for n in (count, file.run_cap, len(file.grid()) if file.method == "grid" else None) if n is not None]
    if not wanted:
        raise ValueError(f"{config}: a {file.method} sweep has no end. Give --count, or `run_cap` in the file.")
    return min(wanted)


def _require_possible(file: SweepFile, config: Path, launch: Launch) -> None:
    """Refuse what a launcher cannot do, as values depend on results, or a run on those beside it."""
    if launch.launcher == "print" and (file.method == "bayes" or file.early_terminate is not None):
        what = "a Bayes sweep" if file.method == "bayes" else "`early_terminate`"
        raise ValueError(f"{config}: {what} needs results while it runs; take --launcher local or slurm.")
    if launch.launcher == "slurm" and file.method == "bayes" and launch.workers is None:
        raise ValueError(f"{config}: a Bayes sweep learns from results; say by --workers how many trials at a time.")


def _require_logged(file: SweepFile, config: Path, stream: Any) -> None:
    """Refuse a metric of the result matrix that no stream has: only the first trial's end would say so."""
    kind, scores = file.metric.name.partition("/")[0], list(stream.scores or SCORES)
    ends = {"matrix": [experience.name for experience in stream.experiences], "stream": [*MEASURES]}
    known = [f"{kind}/{score}/{end}" for score in scores for end in ends.get(kind, ())]
    if known and file.metric.name not in known:
        raise ValueError(f"{config}: the metric is {file.metric.name}, and a stream logs {', '.join(known)}.")


def _run(trials: Trials, launch: Launch, more: Sequence[str]) -> int:
    """Run all trials that are left, with ``more`` arguments, and return how many failed."""
    waiting, numbers, failed = sorted(trials.open), dict[Cell, int](), 0
    done = len(trials.results())
    announce(f"{trials.count} trials, {done} of them ended before; {launch.in_words}")
    with launch.open(trials.folder, trials.sweep.slurm, trials.sweep.name) as pool:
        while True:
            while pool.free and (number := waiting.pop(0) if waiting else trials.next()) is not None:
                cell = trials.cell(number, *more)
                numbers[cell] = number
                pool.start(cell)
            if not pool.jobs:
                return failed
            for cell, error in pool.ended().items():
                failed, done = failed + bool(error), done + (not error)
                said = error or f"{trials.sweep.metric.name} {trials.finish(numbers[cell]):.4g}"
                announce(f"{done}/{trials.count} {cell.name}: {said}")
            for cell in [c for c in pool.jobs if trials.prune(numbers[c])]:
                pool.stop(cell)
                done += 1
                announce(f"{done}/{trials.count} {cell.name}: ended early")
            time.sleep(PAUSE)
