"""What an experience and a stream are."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from lit_continual.data import Case, JointDataModule, check_leakage
from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory
from lit_continual.methods.rehearsal.exemplars import Exemplars
from lit_continual.runs.experience import Experience, is_name_of_a_file
from lit_continual.runs.score import Score
from lit_continual.stream.tracking import announce, versions

SCORES = {s.name: s for s in (Score("dice", baseline=0.0), Score("assd", False, "mm"), Score("hd95", False, "mm"))}


@dataclass
class Stream:
    """Experiences in the order in which they are learnt.

    Args:
        experiences: The list. Empty for one ordinary Lightning fit.
        mode: ``continual`` learns one after another; ``joint`` learns all at once, in one fit as long as the trainer
            says, and ``single`` each alone from scratch: the bounds that a continual learner is measured against.
        start: Checkpoint of a trained model to extend, instead of a new one.
        scores: What fills the result matrices; by default Dice, and surface distances in mm.
        name: Name of the run in reports; by default that of its folder.
        memory: Training samples to keep of each experience for the next ones, in ``memory/`` of the run's folder;
            ``None`` for no memory. The bounds, ``joint`` and ``single``, have none.
        pictures: Whether loggers get pictures of test patients too, under numbers in place of their names. The report
            in the run's folder has them in any case.
        evaluate: Whose scores fill the matrices: ``test``, or ``val`` to choose settings by, without a word from any
            test patient. No volume of the other split is read.
    """

    experiences: list[Experience] = field(default_factory=list)
    mode: Literal["continual", "joint", "single"] = "continual"
    start: Path | None = None
    scores: dict[str, Score] | None = None
    name: str | None = None
    memory: Exemplars | None = None
    pictures: bool = False
    evaluate: Literal["test", "val"] = "test"

    def __post_init__(self) -> None:
        for experience in self.experiences:
            experience.require_name_of_a_folder()
            if (experience.max_epochs or 0) < 0:
                raise ValueError(f"`max_epochs` of {experience.name} must be 0 or more, got {experience.max_epochs}.")
        self._asked = list(self.scores or ())  # of the scores by default a module may log some
        if unfit := [name for name in self.scores or () if not is_name_of_a_file(Score(name).file)]:
            raise ValueError(f"A score cannot be called {unfit[0]!r}: it names files. Use letters, digits and `_`.")
        self.scores = {name: replace(score, name=name) for name, score in (self.scores or SCORES).items()}

    def require_logged(self, logged: Collection[str], who: str) -> None:
        """Refuse scores that nobody logs, whose matrix would stay empty.

        Args:
            logged: What is logged as ``test/<name>``; a score of one class is ``<name>/<class>``.
            who: Logs that.

        Raises:
            ValueError: If one is not among them.
        """
        unknown = [name for name in self._asked if name not in logged and name.split("/")[0] not in logged]
        if unknown or not (self._asked or set(logged) & set(SCORES)):
            raise ValueError(
                f"`stream.scores` has {', '.join(unknown or SCORES)}, which {who} does not log as `test/<name>`: it"
                f" logs {', '.join(sorted(logged)) or 'nothing'}. Name what it logs."
            )

    def described(self, name: str, seed: int, module: LightningModule) -> dict[str, Any]:
        """What ``run.json`` says of a run of this stream that has just begun, by default under ``name``."""
        return {
            "format": 1,
            "name": self.name or name,
            "mode": self.mode,
            "evaluated": self.evaluate,
            "seed": seed,
            "status": "running",
            "experiences": [{"name": e.name, "classes": list(e.classes)} for e in self.experiences],
            "scores": {name: _described(score) for name, score in (self.scores or {}).items()},
            "versions": versions(),
            "tracking_id": uuid.uuid4().hex[:8],
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in module.parameters()),
        }


def _described(score: Score) -> dict[str, Any]:
    return {key: value for key, value in vars(score).items() if key != "name"}


def check_stream(stream: Stream, data: list[LightningDataModule]) -> None:
    """Refuse a stream that cannot be right, before anything is trained.

    Raises:
        ValueError: If two experiences share a name, a classes' list is wrong, nobody is left to test on, a patient
            is in two splits, or joint training cannot take the data modules.
    """
    names = [experience.name for experience in stream.experiences]
    if len(set(names)) < len(names):
        raise ValueError(f"Experiences need different names, got {names}.")
    splits: dict[str, Mapping[str, Sequence[Case]]] = {}
    for name, module in zip(names, data, strict=True):
        if hasattr(module, "values"):
            _ = module.values
        if hasattr(module, "cases"):
            splits[name] = module.cases
            if not splits[name][stream.evaluate]:
                raise ValueError(
                    f"The {stream.evaluate} split of experience {name} is empty. Change the `split` of its data."
                )
    if unseen := [name for name in names if name not in splits]:
        announce(f"Nobody checks that no patient is in two splits of {', '.join(unseen)}: the data have no `cases`.")
    if stream.memory is not None and stream.memory.start is not None and stream.mode == "continual":
        kept = ExemplarMemory(stream.memory.start)
        kept.require()
        splits[f"the memory {kept.folder}"] = {"train": [Case((), None, e.patient) for e in kept.exemplars]}
    check_leakage(splits)
    if stream.mode == "joint":
        JointDataModule(data)
