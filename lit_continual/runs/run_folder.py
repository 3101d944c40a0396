"""What a run leaves on disk, written so that it can be killed anywhere and gone on with."""

import contextlib
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_continual.files.csv_text import csv_rows, csv_text
from lit_continual.files.folder_lock import alone
from lit_continual.files.npz import write_npz
from lit_continual.files.whole_files import is_first_rank, part_of, read_text, replaced, write_json, write_text
from lit_continual.runs.case_scores import CaseScores
from lit_continual.runs.former_run import PARTS, FormerRun, remove
from lit_continual.runs.run import Run, checkpoint_path
from lit_continual.runs.settings import differences, digest, in_words, settings

REMOVED = ".removed"  # what was a run's experiences, while it is removed
#: What is written in which place of a run.
WRITTEN = {
    "": r"run\.json|matrix\.json|config\.yaml|cases\.csv",
    "overlays/": r"\d+_\d+\.npz",
    "memory/": r"manifest\.json",
    "memory/exemplars/": r"[0-9a-f]{32}\.npz",
    "experiences/*/": r"model\.ckpt",
    "experiences/*/resume/": r"(?:resume|finished)\.ckpt|teacher-[0-9a-f]{16}\.pt",
}


class RunFolder:
    """The folder of one run: ``config.yaml``, ``run.json``, ``matrix.json``, ``cases.csv``, memory and checkpoints.

    Only the first rank writes. ``run.json`` is written last of a step, so what it says is there is there.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run: dict[str, Any] = {}
        self.matrices: dict[str, list[list[float | None]]] = {}
        self.is_new = False  # whether this process has begun the run
        self.former = FormerRun(path)

    @property
    def memory(self) -> Path:
        """Where the exemplars lie."""
        return self.path / "memory"

    def checkpoint(self, index: int) -> Path:
        """Where the network and the callbacks' state lie after experience ``index``."""
        return checkpoint_path(self.path, index, self.run["experiences"][index]["name"])

    def resume_folder(self, index: int) -> Path:
        """Where a fit that is under way keeps what it needs to go on."""
        return self.checkpoint(index).parent / "resume"

    @contextlib.contextmanager
    def lock(self) -> Iterator[str]:
        """Keep other processes out for a block, which yields who was found dead in the folder, "" for nobody.

        A run that was to be overwritten is there again if the block fails before it has :meth:`begun`.

        Raises:
            ValueError: If another process is at work in it.
        """
        with alone(self.path) as left, self.former.there_after_errors():
            yield left

    def start(
        self, config: str, run: Mapping[str, Any], resume: bool, overwrite: bool, with_changes: bool = False
    ) -> str:
        """Begin a run, or go on with the one that is there.

        Args:
            config: The config that would make the run, in full.
            run: What ``run.json`` says of a new run.
            resume: Go on.
            overwrite: Remove the run that is there.
            with_changes: Go on also where settings differ, and note them.

        Returns:
            What the user should know; "" for nothing.

        Raises:
            ValueError: If the folder holds a run and neither is asked for, or holds another run than the one to resume,
                or one with other settings.
        """
        known, size = self.path / "run.json", len(run["experiences"])
        self.matrices = {score: [[None] * size for _ in range(size)] for score in run["scores"]}
        if is_first_rank():
            self._prepare(resume or with_changes, overwrite)
        if known.exists():
            found = Run.load(self.path)
            self.run = dict(found.described)
            _require_same_run(self.path, run, self.run)
            self.matrices = {name: _without_nan(R.tolist()) for name, R in found.matrix.items()}
            return self._compare(config, found.config, with_changes) if is_first_rank() else ""
        self.run, self.is_new = {**run, "settings": digest(settings(config))}, True
        if is_first_rank():
            write_text(self.path / "config.yaml", config)
            write_json(self.path / "matrix.json", self.matrices)
            write_json(known, self.run)
        return ""

    def _prepare(self, resume: bool, overwrite: bool) -> None:
        if (self.path / REMOVED).exists():  # the process that removed a run was killed
            self._clear()
        self.former.recover()
        known = (self.path / "run.json").exists()
        if known and not resume and not overwrite:
            raise ValueError(
                f"{self.path} holds a run already. Add --resume to go on with it, --overwrite to start anew, or"
                " choose another folder with --trainer.default_root_dir."
            )
        if known and not resume:
            self.former.set_aside()
        elif not known and (self.path / "experiences").exists():
            raise ValueError(
                f"{self.path / 'experiences'} may hold checkpoints of a run, and there is no run.json beside it to say"
                " which. Move it away, or choose another folder with --trainer.default_root_dir."
            )
        for place, names in WRITTEN.items():  # what was being written when a process was killed
            for part in self.path.glob(f"{place}.*.part"):
                if re.fullmatch(names, part_of(part.name)):
                    part.unlink()

    def _compare(self, config: str, before: str, with_changes: bool) -> str:
        """Hold the settings against those that the run was begun with."""
        mine, noted = settings(config), self.run.get("settings")
        if noted is None:
            return f"{self.path} was begun by a version that noted no settings; that they are the same is not checked."
        changes = differences(settings(before), mine)
        if noted == digest(mine):
            if changes:  # killed when changes were noted, or edited
                write_text(self.path / "config.yaml", config)
            return ""
        what = in_words(changes) or "they, or its config.yaml, were changed since"
        if not with_changes:
            raise ValueError(
                f"{self.path} was begun with other settings: {what}. Take back what differs, add --resume-with-changes"
                " to go on all the same, or choose another folder with --trainer.default_root_dir."
            )
        self.note(changes=[*self.run.get("changes", []), changes], settings=digest(mine))
        write_text(self.path / "config.yaml", config)
        return f"{self.path} goes on with changed settings, noted in run.json: {what}"

    def _clear(self) -> None:
        """Remove a run: its checkpoints at once, and last what says that it is being removed, as this may be killed."""
        removed = self.path / REMOVED
        if (self.path / "experiences").exists():
            shutil.rmtree(removed, ignore_errors=True)
            (self.path / "experiences").rename(removed)
        removed.mkdir(exist_ok=True)
        for name in PARTS:
            remove(self.path / name)
        shutil.rmtree(removed, ignore_errors=True)

    def withdraw(self) -> None:
        """Remove a run that this process has begun and that has learnt nothing, so that the next one can begin."""
        if self.is_new and is_first_rank() and not any(self.path.glob("experiences/*/**/*.ckpt")):
            self._clear()

    def begun(self) -> None:
        """Remove the run that was overwritten, as this one has trained."""
        if is_first_rank():
            self.former.drop()

    def note(self, index: int | None = None, **facts: Any) -> None:
        """Remember facts about an experience, such as ``seconds``, or without an index about the run."""
        (self.run if index is None else self.run["experiences"][index]).update(facts)
        if is_first_rank():
            write_json(self.path / "run.json", self.run)

    def steps(self, count: int) -> int:
        """Training steps of the first ``count`` experiences."""
        return sum(experience.get("steps") or 0 for experience in self.run["experiences"][:count])

    def learnt(self, index: int) -> bool:
        """Whether the checkpoint of an experience is there and noted down."""
        known = self.run["experiences"][index]
        return self.checkpoint(index).exists() and all(known.get(n) is not None for n in ("epochs", "steps", "seconds"))

    def remembered(self, index: int) -> bool:
        """Whether exemplars of an experience have been chosen."""
        return "exemplars" in self.run["experiences"][index]

    def evaluated(self, after: int) -> bool:
        """Whether the row of experience ``after`` is complete."""
        return self.run["experiences"][after].get("evaluation_seconds") is not None

    def write_row(self, after: int, row: Mapping[str, Mapping[int, float]], cases: Iterable[CaseScores]) -> None:
        """Write row ``after`` of every matrix and add the scores of its cases, in place of what a kill left of them."""
        for score, values in row.items():
            self.matrices[score][after] = [None] * len(self.run["experiences"])
            for on, value in values.items():
                self.matrices[score][after][on] = value if math.isfinite(value) else None
        if not is_first_rank():
            return
        path = self.path / "cases.csv"
        kept = [r for r in self._cases() if r["after"] != str(after)]
        columns = ["after", "on", "patient", "volume", "class", *self.run["scores"]]
        rows: list[Mapping[str, Any]] = [*kept, *(case.row() for case in cases)]
        write_text(path, csv_text(columns, ([row.get(column, "") for column in columns] for row in rows)))
        write_json(self.path / "matrix.json", self.matrices)

    def _cases(self) -> list[dict[str, str]]:
        """The scores of cases so far."""
        path = self.path / "cases.csv"
        text = read_text(path) if path.exists() else ""
        known = {"after", "on"} <= {*text.partition("\n")[0].strip().split(",")}
        if not known and any(map(self.evaluated, range(len(self.run["experiences"])))):
            raise ValueError(
                f"`{path}` is {'gone' if not text else 'damaged'}, and the scores of cases that were evaluated with it."
                " Restore it from a copy, or begin anew with --overwrite."
            )
        return csv_rows(text) if known else []

    def write_overlays(self, after: int, on: int, overlays: Sequence[Mapping[str, Any]]) -> None:
        """Write image, truth and prediction of a slice of each case; the names of all but the first are numbered."""
        if is_first_rank():
            numbered = [("" if n == 0 else f"_{n}", overlay) for n, overlay in enumerate(overlays)]
            arrays = {key + number: value for number, overlay in numbered for key, value in overlay.items()}
            with replaced(self.path / "overlays" / f"{after}_{on}.npz") as temporary:
                write_npz(temporary, arrays, compress=True)

    def finish(self) -> None:
        """Mark the run as finished."""
        self.begun()
        self.note(status="finished")


def _without_nan(matrix: list[list[float]]) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in matrix]


def _require_same_run(path: Path, run: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    same = ("name", "mode", "seed")
    mine, theirs = (
        [*(r[k] for k in same), [e["name"] for e in r["experiences"]], list(r["scores"])] for r in (run, found)
    )
    if mine != theirs:
        raise ValueError(
            f"{path} holds another run than this config describes ({theirs} instead of {mine})."
            " Resume with the config in its config.yaml, or choose another folder."
        )
