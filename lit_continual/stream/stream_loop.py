"""The loop over the experiences of a stream: fit after fit, each evaluated."""

import copy
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from lit_continual.data import JointDataModule
from lit_continual.files.whole_files import explaining, is_first_rank, replaced
from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory
from lit_continual.methods.rehearsal.exemplar_memory_data_module import ExemplarMemoryDataModule
from lit_continual.runs.case_scores import CaseScores
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint
from lit_continual.runs.checkpoints.seal import seal
from lit_continual.runs.experience import facts_in, require_own
from lit_continual.runs.run_folder import RunFolder
from lit_continual.segmentation.growth import GrowBeforeAverages
from lit_continual.stream.evaluation import CaseRecorder, evaluate, validated
from lit_continual.stream.resumption import EpochSeed, ResumeFiles, ResumePoint, withdrawn_if_refused
from lit_continual.stream.stopping import Stopping
from lit_continual.stream.stream import Stream
from lit_continual.stream.tracking import announce, log_row


class StreamLoop:
    """Fit after fit: hand the state on, evaluate after each, write the row.

    Args:
        stream: What is learnt.
        models: The module as each experience trains it; the first one's weights are those before the first.
        data: The data module of each experience.
        make_trainer: Makes a fresh trainer with fresh callbacks, from callbacks to put before these and behind these,
            the training steps of earlier fits as ``step``, and arguments of the trainer to override.
        folder: Where everything is written; started.
        seed: Seed of the run.
        loggers: Where rows and pictures go as well.
        start: The checkpoint that the stream starts from, opened; by default the stream's is opened when it is needed.
        resumable: Write a checkpoint each epoch, for a fit that is cut off to go on from; without, it starts anew.
    """

    def __init__(
        self,
        stream: Stream,
        models: list[LightningModule],
        data: list[LightningDataModule],
        make_trainer: Callable[..., Trainer],
        folder: RunFolder,
        seed: int,
        loggers: Sequence[Logger] = (),
        start: Checkpoint | None = None,
        resumable: bool = True,
    ) -> None:
        self.stream, self.models, self.data, self.make_trainer = stream, models, data, make_trainer
        self.folder, self.seed, self.loggers, self.resumable = folder, seed, loggers, resumable
        self._opened = start

    def run(self) -> None:
        """Learn what is left to learn, and evaluate what is left to evaluate."""
        steps = range(len(self.stream.experiences))
        memory = self.stream.memory if self._remembers and self.stream.start is not None else None
        if memory is not None and memory.start is None and self.stream.experiences[0].max_epochs != 0:
            announce("The memory begins empty: `stream.memory.start` takes that of the run that the stream starts from")
        for i in [steps[-1]] if self.stream.mode == "joint" else steps:
            if not self.folder.checkpoint(i).exists():
                seeds = EpochSeed(self.seed, i, self.folder.begun)
                with withdrawn_if_refused(self.folder, seeds):
                    self._fit(i, seeds)
            elif not self.folder.learnt(i):  # killed between the two
                self._note(i, facts_in(self._open(self.folder.checkpoint(i)).content, self.folder.checkpoint(i)))
            if is_first_rank():
                shutil.rmtree(self.folder.resume_folder(i), ignore_errors=True)
            if self._remembers and self.stream.experiences[i].remember and not self.folder.remembered(i):
                self._remember(i)
            if not self.folder.evaluated(i):
                self._evaluate(i)
        self.folder.finish()

    def _before(self, index: int) -> Path | None:
        """Checkpoint that experience ``index`` begins with."""
        return self.folder.checkpoint(index - 1) if self.stream.mode == "continual" and index else self.stream.start

    def _module(self, index: int, path: Path | None) -> tuple[LightningModule, dict[str, Any]]:
        module = copy.deepcopy(self.models[0 if self.stream.mode == "joint" else index])
        if path is None:
            return module, {}
        checkpoint = self._open(path)
        checkpoint.restore(module)
        return module, checkpoint.callbacks

    def _open(self, path: Path) -> Checkpoint:
        """Open a checkpoint; the one that was opened last is not read again."""
        if self._opened is None or self._opened.path != path:
            self._opened = Checkpoint(path)
            for i, experience in enumerate(self.stream.experiences):
                if path == self.folder.checkpoint(i):
                    require_own(self._opened.content, path, i, experience.name)
        return self._opened

    def _fit(self, index: int, seeds: EpochSeed) -> None:
        experience = self.stream.experiences[index]
        point = ResumePoint(self.folder.resume_folder(index), self.resumable)
        under_way = point.found()
        module, states = self._module(index, self._before(index))
        data = self.data[index] if self.stream.mode != "joint" else JointDataModule(self.data)
        data = self._with_memory(index) if self._remembers else data
        options: dict[str, Any] = {"enable_model_summary": False}  # a line says how large it is
        if experience.max_epochs is not None and self.stream.mode != "joint":  # whose fit is nobody's own
            options["max_epochs"] = experience.max_epochs
        trainer = self.make_trainer(
            [Stopping(), seeds, GrowBeforeAverages()], [point], step=self.folder.steps(index), **options
        )
        trainer.strategy.checkpoint_io = ResumeFiles(point.dirpath, trainer.strategy.checkpoint_io)
        _hand_on(states, trainer, module if self._before(index) is not None else None)
        device = str(trainer.strategy.root_device)
        self.folder.note(index, evaluation_seconds=None)
        self.folder.note(device=device)
        size = sum(parameter.numel() for parameter in module.parameters())
        announce(f"{self._title(index)} {'going on' if under_way else 'learning'} on {device}, {size:,} parameters")
        begin = time.monotonic()
        trainer.fit(module, datamodule=data, ckpt_path=under_way, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        seconds = round(time.monotonic() - begin, 2)
        self._keep(trainer, index, {"epochs": trainer.current_epoch, "steps": trainer.global_step, "seconds": seconds})

    def _keep(self, trainer: Trainer, index: int, facts: dict[str, Any]) -> None:
        """Write the checkpoint of a finished fit: weights, heads, preprocessing and the callbacks' state."""
        path, whole = self.folder.checkpoint(index), self.folder.resume_folder(index) / "finished.ckpt"
        trainer.save_checkpoint(whole)
        if trainer.is_global_zero:
            checkpoint = load_checkpoint(whole)
            # A callback of averages puts these there; the module has them too, and what others made of them at the end.
            checkpoint["state_dict"] = checkpoint.pop("current_model_state", checkpoint["state_dict"])
            for key in ("optimizer_states", "lr_schedulers", "loops", "averaging_state"):
                checkpoint.pop(key, None)
            mine = {callback.state_key for callback in _methods(trainer)}
            checkpoint["callbacks"] = {k: v for k, v in checkpoint.get("callbacks", {}).items() if k in mine}
            seal(checkpoint, type(trainer.lightning_module))
            facts["memory_bytes"] = sum(_size(state) for state in checkpoint["callbacks"].values())
            with replaced(path) as temporary:
                name = self.stream.experiences[index].name
                torch.save({**checkpoint, "experience": {**facts, "index": index, "name": name}}, temporary)
        self._opened = None
        trainer.strategy.barrier()
        self._note(index, facts)

    def _note(self, index: int, facts: Mapping[str, Any]) -> None:
        self.folder.begun()  # also a fit of no step
        self.folder.note(index, **facts, checkpoint_bytes=self.folder.checkpoint(index).stat().st_size)

    @property
    def _remembers(self) -> bool:
        return self.stream.memory is not None and self.stream.mode == "continual"

    def _with_memory(self, index: int) -> ExemplarMemoryDataModule:
        names = [experience.name for experience in self.stream.experiences]
        ExemplarMemory(self.folder.memory).require_of([n for i, n in enumerate(names) if self.folder.remembered(i)])
        return ExemplarMemoryDataModule(self.data[index], self.folder.memory, self.stream.memory, names[index])

    def _remember(self, index: int) -> None:
        """Keep exemplars of a finished experience, chosen by the network of its checkpoint."""
        begin = time.monotonic()
        module, _ = self._module(index, self.folder.checkpoint(index))
        module.to(self.make_trainer([], logger=False).strategy.root_device)
        data = self._with_memory(index)
        exemplars = data.remember(module)
        data.teardown("fit")  # it has loaded the training volumes once more
        size = sum(exemplar.bytes for exemplar in exemplars)
        announce(f"{self._title(index)} {len(exemplars)} exemplars of {size / 1e6:.1f} MB in {self.folder.memory}")
        size += self.folder.run["experiences"][index].get("memory_bytes") or 0
        seconds = round(time.monotonic() - begin, 2)
        self.folder.note(index, exemplars=len(exemplars), memory_bytes=size, selection_seconds=seconds)

    def _title(self, index: int) -> str:
        names = [experience.name for experience in self.stream.experiences]
        return "all together:" if self.stream.mode == "joint" else f"{index + 1}/{len(names)} {names[index]}:"

    def _evaluate(self, after: int) -> None:
        module, states = self._module(after, self.folder.checkpoint(after))
        logged: set[str] = set()
        row: dict[str, dict[int, float]] = {score: {} for score in self.stream.scores or ()}
        cases: list[CaseScores] = []
        begin = time.monotonic()
        for on in self._evaluated_on(after, module):
            recorder = CaseRecorder(after, on)
            trainer = self.make_trainer([Stopping(), recorder], logger=False)
            _hand_on(states, trainer)
            data = self.data[on] if self.stream.evaluate == "test" else validated(self.data[on])
            found = evaluate(trainer, module, data, "test")
            cases, logged = cases + recorder.cases, logged | found.keys()
            if recorder.overlays:
                self.folder.write_overlays(after, on, recorder.overlays)
            for score in row.keys() & found:
                row[score][on] = found[score]
        if not any(map(self.folder.evaluated, range(after))):  # the first; before any other fit
            self.stream.require_logged(logged, type(module).__name__)
        self.folder.write_row(after, row, cases)
        self._announce_row(after, row)
        log_row(self.loggers, self.folder.path, after, self.folder.steps(after + 1), self.stream.pictures)
        self.folder.note(after, evaluation_seconds=round(time.monotonic() - begin, 2))

    def _announce_row(self, after: int, row: Mapping[str, Mapping[int, float]]) -> None:
        facts, (score, values) = self.folder.run["experiences"][after], next(iter(row.items()))
        found = ", ".join(f"{self.stream.experiences[on].name} {value:.3f}" for on, value in sorted(values.items()))
        epochs = f"{facts['epochs']} epoch{'s' * (facts['epochs'] != 1)}"
        done = f"{self._title(after)} {epochs} in {facts['seconds']:.0f} s"
        announce(f"{done}; {score} on {found or 'nothing'}")

    def _evaluated_on(self, after: int, module: LightningModule) -> list[int]:
        """All experiences so far, and those to come whose classes have a head already."""
        if self.stream.mode == "single":
            return [after]
        known = set(getattr(module, "classes", []))
        ahead = range(after + 1, len(self.data))
        return [*range(after + 1), *(j for j in ahead if set(self.stream.experiences[j].classes) <= known)]


def _hand_on(states: Mapping[str, Any], trainer: Trainer, trained: LightningModule | None = None) -> None:
    """Give the callbacks what those of the last fit remembered, or show them what a fit without them has left."""
    for callback in _methods(trainer):
        if callback.state_key in states:
            what = f"The state of {type(callback).__name__} in the checkpoint before cannot be taken"
            with explaining(what, "Restore it from a copy.", LookupError, TypeError, AttributeError, RuntimeError):
                callback.load_state_dict(copy.deepcopy(states[callback.state_key]))
        elif trained is not None and hasattr(callback, "follow"):
            callback.follow(trained)
        if hasattr(callback, "fits_follow"):  # it need not warn of a first fit
            callback.fits_follow = True


def _methods(trainer: Trainer) -> list[Callback]:
    """The callbacks whose state goes from fit to fit; Lightning's own belong to one."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [c for c in callbacks if not type(c).__module__.startswith(("lightning.", "pytorch_lightning."))]


def _size(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(_size(value) for value in state.values())
    return sum(_size(value) for value in state) if isinstance(state, (list, tuple)) else 0
