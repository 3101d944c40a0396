"""A sweep over options of ``fit``, from a W&B sweep file, without a server."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_continual.reports import Sweep, sweep_table, write_sweep
from lit_continual.runs.printing import show
from lit_continual.stream.tracking import announce
from lit_continual.studies.cells import PAUSE, Cell, Workers
from lit_continual.studies.sweep_file import SweepFile, read_sweep
from lit_continual.studies.trials import Trials


def sweep(
    config: Path,
    parse: Callable[[Sequence[str]], Any],
    workers: int = 1,
    count: int | None = None,
    output: Path | None = None,
    csv: bool = False,
) -> None:
    """Run what is missing of a sweep, then show and write it.

    Args:
        config: The sweep file.
        parse: Parses the arguments of ``fit``; raises a ValueError that says what is wrong with them.
        workers: How many trials at a time; 0 shows what is there.
        count: Most trials, in place of the file's ``run_cap``; a random or Bayes sweep needs either.
        output: Folder of the sweep; by default ``runs/sweeps/<file>``.
        csv: Track by CSV alone, whatever the file's command says.

    Raises:
        ValueError: If the file or a number is wrong, or the folder holds another sweep.
        SystemExit: If trials failed.
    """
    file = read_sweep(config)
    folder = output or Path("runs", "sweeps", config.stem)
    limit = _limit(file, config, count)
    more = ("--trainer.logger=true",) if csv else ()
    for values in file.samples():
        try:
            parsed = parse([*file.arguments(values), *more])
        except ValueError as error:
            tried = ", ".join(f"{name} {value}" for name, value in values.items())
            raise ValueError(f"{config}, with {tried}: {error}") from error
        if not parsed.stream.experiences:
            raise ValueError(f"{config}: the config in `command` has no `stream.experiences`. Name one or more.")
    trials = Trials(file, folder, limit)
    failed = _run(trials, workers, more) if workers else 0
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


def _run(trials: Trials, workers: int, more: Sequence[str]) -> int:
    """Run all trials that are left, with ``more`` arguments, and return how many failed."""
    group = {"WANDB_MODE": "offline", **os.environ, "WANDB_RUN_GROUP": trials.sweep.name}
    waiting, numbers, failed = sorted(trials.open), dict[Cell, int](), 0
    done = len(trials.results())
    announce(f"{trials.count} trials, {done} of them ended before; {workers} at a time")
    with Workers(workers, environment=group) as pool:
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
