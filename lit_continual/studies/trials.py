"""The trials of a sweep: an Optuna study that outlives its process, and a run folder for each."""

import json
from dataclasses import asdict
from math import exp, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_continual.files.folder_aside import made_folder
from lit_continual.reports import Trial, logged_values, numbers_to_log
from lit_continual.runs.run import Run
from lit_continual.studies.cell import Cell
from lit_continual.studies.journal import STUDY, open_journal
from lit_continual.studies.sweep_file import Parameter, SweepFile

if TYPE_CHECKING:
    import optuna

SAME = ("method", "metric", "parameters", "command", "early_terminate")


class Trials:
    """What a sweep tried, tries and will try.

    A trial is open from when its values are drawn until its result is in. One that was open when the process was
    killed keeps its number, values and folder, and is gone on with. The values of a trial depend on its number and on
    the results so far, not on how often the sweep was interrupted.

    Args:
        sweep: What to try.
        folder: Of the sweep: ``study.log``, and ``trials/<number>``.
        count: Most trials.

    Raises:
        MisconfigurationException: If Optuna is not installed.
        ValueError: If the folder holds another sweep, or its study is damaged.
    """

    def __init__(self, sweep: SweepFile, folder: Path, count: int) -> None:
        self.optuna = _optuna()
        self.sweep, self.folder, self.count = sweep, folder, count
        made_folder(folder)
        stop = sweep.early_terminate
        pruners = self.optuna.pruners
        self.study = self.optuna.create_study(
            storage=open_journal(self.optuna, folder),
            study_name=STUDY,
            direction=sweep.metric.goal,
            pruner=pruners.SuccessiveHalvingPruner(stop.first, stop.eta, 0) if stop else pruners.NopPruner(),
            load_if_exists=True,
        )
        described = json.loads(json.dumps({k: v for k, v in asdict(sweep).items() if k in SAME}, default=str))
        if self.study.user_attrs.get("sweep", described) != described:
            changed = [k for k in SAME if self.study.user_attrs["sweep"].get(k) != described[k]]
            raise ValueError(
                f"{folder} holds a sweep with another {' and '.join(changed)}. Choose another folder with --output, or"
                " remove this one."
            )
        self.study.set_user_attr("sweep", described)
        for values in sweep.grid()[:count] if sweep.method == "grid" else ():
            self.study.enqueue_trial({n: _stored(v) for n, v in values.items()}, skip_if_exists=True)
        self.open = {t.number: self.optuna.trial.Trial(self.study, t._trial_id) for t in self._in("RUNNING")}
        self.reported = {t.number: len(t.intermediate_values) for t in self._in("RUNNING")}

    def next(self) -> int | None:
        """Open one more trial and return its number; ``None`` if there are enough."""
        waiting, begun = len(self._in("WAITING")), len(self._in("RUNNING", "COMPLETE", "PRUNED", "FAIL"))
        if begun >= self.count or (self.sweep.method == "grid" and not waiting):
            return None
        trial: optuna.Trial = self.study.ask()
        self.open[trial.number], self.reported[trial.number] = trial, 0
        return trial.number

    def cell(self, number: int, *more: str) -> Cell:
        """The run of an open trial, with ``more`` arguments."""
        samplers = self.optuna.samplers
        sampler = samplers.TPESampler if self.sweep.method == "bayes" else samplers.RandomSampler
        seed = int(np.random.SeedSequence([0, number]).generate_state(1)[0])  # its own, as processes come and go
        self.study.sampler = sampler(seed=seed)
        values = {n: _suggest(self.open[number], n, p) for n, p in self.sweep.parameters.items()}
        name = ", ".join(f"{n.rpartition('.')[2]} {v}" for n, v in values.items())
        arguments = (*self.sweep.arguments(values), f"--stream.name={self.sweep.name}-{number}", *more)
        return Cell(f"trial {number} ({name})", self._folder(number), arguments, group=self.sweep.name)

    def cells(self, *more: str) -> list[Cell]:
        """The runs of all trials that are left, opened at once; their values must not depend on results."""
        while self.next() is not None:
            pass
        return [self.cell(number, *more) for number in sorted(self.open)]

    def prune(self, number: int) -> bool:
        """Look at the curve of a trial under way, and close it if it should be ended early; return whether it was."""
        stop, trial = self.sweep.early_terminate, self.open[number]
        if stop is None:
            return False
        values = logged_values(self._folder(number)).get(self.sweep.metric.name, [])
        for value in values[self.reported[number] :]:
            self.reported[number] += 1
            trial.report(value, self.reported[number])
            if self.reported[number] <= stop.last and trial.should_prune():
                self.study.tell(self.open.pop(number), state=self.optuna.trial.TrialState.PRUNED)
                return True
        return False

    def finish(self, number: int) -> float:
        """Close a trial whose run is finished, and return its result, nan where that is undefined.

        Raises:
            ValueError: If the run never logged the metric.
        """
        wanted, logged = self.sweep.metric.name, logged_values(self._folder(number))
        if not logged.get(wanted):
            if wanted in {*logged, *numbers_to_log(Run.load(self._folder(number)))}:  # as a distance to what is empty
                self.study.tell(self.open.pop(number), state=self.optuna.trial.TrialState.FAIL, skip_if_finished=True)
                return nan
            likely = [name for name in sorted(logged) if name.startswith(("matrix/", "stream/", "val/"))]
            raise ValueError(
                f"The metric {wanted} was never logged as a number by {self._folder(number)}, which has"
                f" {', '.join(likely or sorted(logged)) or 'nothing'}."
            )
        value = logged[wanted][-1]
        self.study.tell(self.open.pop(number), value, skip_if_finished=True)
        return value

    def collect(self) -> None:
        """Close the open trials whose runs others have finished."""
        for number in list(self.open):
            if Cell("", self._folder(number), ()).finished:
                self.finish(number)

    def results(self) -> list[Trial]:
        """Every trial that ended, in the order of their numbers."""
        found = []
        for trial in self._in("COMPLETE", "PRUNED", "FAIL"):
            folder = self._folder(trial.number)
            last = {name: values[-1] for name, values in logged_values(folder).items() if values}
            found.append(Trial(trial.number, dict(trial.params), last, trial.state.name != "PRUNED", folder))
        return found

    def _folder(self, number: int) -> Path:
        return self.folder / "trials" / str(number)

    def _in(self, *states: str) -> list["optuna.trial.FrozenTrial"]:
        kinds = tuple(self.optuna.trial.TrialState[state] for state in states)
        trials: list[optuna.trial.FrozenTrial] = self.study.get_trials(deepcopy=False, states=kinds)
        return trials


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MisconfigurationException(
            "A sweep needs Optuna, which is not installed: pip install 'lit-continual[sweep]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _stored(value: Any) -> Any:
    """A value as Optuna keeps it: plain ones as they are, others as JSON, which the command line reads as well."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _suggest(trial: "optuna.Trial", name: str, parameter: Parameter) -> Any:
    """The value of a parameter in a trial, drawn if it is not yet."""
    if parameter.values is not None:
        return trial.suggest_categorical(name, [_stored(value) for value in parameter.values])
    low, high = cast(tuple[float, float], (parameter.min, parameter.max))  # a range has both
    kind = str(parameter.distribution)
    step = parameter.q if kind == "q_uniform" else None
    if kind == "int_uniform" or (step and all(isinstance(x, int) for x in (low, high, step))):
        return trial.suggest_int(name, int(low), int(high), step=int(step or 1))
    if kind == "log_uniform":
        low, high = exp(low), exp(high)
    return trial.suggest_float(name, low, high, step=step, log=kind.startswith("log"))
