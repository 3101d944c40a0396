"""A run folder as the stream leaves it, read and checked."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from reprlib import repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_continual.files.csv_text import csv_rows
from lit_continual.files.plain_data import require_types, types_of
from lit_continual.files.printing import printable_errors
from lit_continual.files.whole_files import HIGHEST, in_one_line, parsed_json, read_text
from lit_continual.runs.case_scores import CaseScores
from lit_continual.runs.experience import Experience, Facts, is_name_of_a_file
from lit_continual.runs.score import Score

FORMAT = 1
MODES = ("continual", "joint", "single")
MOST = 1000  # experiences of a run, scores, threads

#: Types in `run.json`: what must be there, what may be, and what is known of an experience.
_DESCRIBED = {"experiences": list[dict[str, Any]], "scores": dict[str, Any], "name": str, "mode": str, "status": str}
_MORE = {"threads": int, "changes": list[Any], **dict.fromkeys(("device", "evaluated", "tracking_id", "settings"), str)}
_KNOWN: dict[str, Any] = {"seed": int | None, "parameters": int | None, "versions": dict[str, Any], **_MORE}
_FACTS = types_of(Facts)


@dataclass(frozen=True, eq=False)
class Run:
    """Everything a report needs to know of one run.

    Attributes:
        folder: Where it was read from.
        name: The run's name, shared by runs that differ in their seed only.
        mode: ``continual``, or one of its bounds: ``joint`` (one fit on all data, the last row of the matrix) and
            ``single`` (each experience trained alone, the diagonal).
        matrix: Per score ``R`` of shape ``(T, T)``: ``R[i, j]`` after experience ``i`` on experience ``j``, nan where
            it was not evaluated or is undefined.
        evaluated: Whose scores these are, those of the ``test`` or of the ``val`` split.
        facts: What is known of each experience.
        cases: The rows of ``cases.csv``.
        described: All of ``run.json``.
        config: Text of ``config.yaml``, empty where there is none.
    """

    folder: Path
    name: str
    mode: str
    seed: int | None
    status: str
    experiences: tuple[Experience, ...]
    scores: tuple[Score, ...]
    matrix: Mapping[str, NDArray[np.float64]]
    facts: tuple[Facts, ...] = ()
    cases: tuple[CaseScores, ...] = ()
    described: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    parameters: int | None = None
    config: str = ""
    evaluated: str = "test"

    @classmethod
    @printable_errors()
    def load(cls, folder: Path | str) -> "Run":
        """Read a run folder.

        Raises:
            ValueError: If the folder is missing, was not written by a stream, or a file in it is damaged.
        """
        folder = Path(folder)
        if folder.is_file():
            raise ValueError(f"`{folder}` is a file and not a run folder; give a folder that `fit` wrote.")
        described = _read_json(folder / "run.json", finite=True)
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            found = described.get("format") if isinstance(described, dict) else None
            raise ValueError(
                f"`{folder / 'run.json'}` has format {found!r}, and this version reads format {FORMAT}; give a folder"
                " that `fit` wrote, or install the version that wrote it."
            )
        try:
            run = cls(folder=folder, matrix={}, described=described, **_fields(described))
        except ValueError as error:
            raise ValueError(
                f"`{folder / 'run.json'}` is incomplete or damaged ({in_one_line(error)}); restore it from"
                " a copy, or begin anew with `--overwrite`."
            ) from error
        object.__setattr__(run, "matrix", _read_matrix(folder / "matrix.json", run))
        object.__setattr__(run, "cases", _read_cases(folder / "cases.csv", run))
        object.__setattr__(run, "config", _read_config(folder / "config.yaml"))
        return run

    @property
    def finished(self) -> bool:
        """Whether the stream came to its end."""
        return self.status == "finished"

    @property
    def title(self) -> str:
        """Its name, and whose scores it has where they are not those of the test cases."""
        return self.name if self.evaluated == "test" else f"{self.name}, validation"

    @property
    def steps(self) -> int:
        """How many rows of the matrix there are so far, up to the last that holds a number."""
        return max((int(i) + 1 for R in self.matrix.values() for i in np.flatnonzero(np.isfinite(R).any(1))), default=0)

    def values(self, score: Score) -> NDArray[np.float64]:
        """The matrix of one score, shape ``(T, T)``; all nan for a score that this run does not have."""
        size = len(self.experiences)
        return self.matrix.get(score.name, np.full((size, size), nan))

    def rows(self) -> list[tuple[str, int]]:
        """What the rows of the matrix are called and where they are; joint training has one."""
        if self.mode == "joint":
            return [("all together", len(self.experiences) - 1)]
        return [(experience.name, i) for i, experience in enumerate(self.experiences)]

    def learnt_at(self, on: int) -> int:
        """Row of the matrix in which experience ``on`` was just learnt."""
        return len(self.experiences) - 1 if self.mode == "joint" else on

    def last_at(self, on: int) -> int:
        """Row of the matrix that says how well experience ``on`` is known in the end, or so far."""
        return {"continual": self.steps - 1, "joint": len(self.experiences) - 1, "single": on}[self.mode]

    def checkpoint(self, index: int) -> Path:
        """Where the network and the callbacks' state lie after experience ``index``."""
        return checkpoint_path(self.folder, index, self.experiences[index].name)

    def overlay(self, after: int, on: int) -> Path | None:
        """The file with the slice of experience ``on`` as segmented after experience ``after``, if there is one."""
        path = self.folder / "overlays" / f"{after}_{on}.npz"
        return path if path.is_file() else None


def checkpoint_path(folder: Path, index: int, name: str) -> Path:
    """Where a run keeps the checkpoint of experience ``index``; made of its name, whatever a file says.

    Raises:
        ValueError: If the name would lead elsewhere.
    """
    Experience(name).require_name_of_a_folder()
    return folder / "experiences" / f"{index}_{name}" / "model.ckpt"


def _fields(described: dict[str, Any]) -> dict[str, Any]:
    require_types(described, {"experiences": list[Any], "scores": dict[Any, Any]})
    if (count := max(len(described["experiences"]), len(described["scores"]))) > MOST:
        raise ValueError(f"it names {count} experiences or scores, and {MOST} are the most")
    require_types(described, _DESCRIBED)
    require_types(described, _KNOWN, required=False)
    listed, scores = described["experiences"], described["scores"].items()
    facts = tuple(_facts(e) for e in listed)
    experiences = tuple(Experience(e["name"], {name: name for name in e["classes"]}) for e in listed)
    names = [e.name for e in experiences]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"its experiences are {names}, and each needs a name of its own")
    if not scores:
        raise ValueError("it names no score")
    if unfit := [name for name in described["scores"] if not is_name_of_a_file(Score(name).file)]:
        raise ValueError(f"{repr(unfit[0])} is no name of a score, which files are called by")
    if not re.fullmatch(r"\w{0,64}", described.get("tracking_id", "")):  # which goes into the environment
        raise ValueError(f"`tracking_id` is {repr(described['tracking_id'])}")
    if not 1 <= (threads := described.get("threads", 1)) <= MOST:
        raise ValueError(f"`threads` is {threads}")
    if described["mode"] not in MODES:
        raise ValueError(f"mode {repr(described['mode'])} is none of {', '.join(MODES)}")
    return {
        "experiences": experiences,
        "facts": facts,
        "scores": tuple(Score.read(n, s) for n, s in scores),
        "versions": {str(k): str(v) for k, v in described.get("versions", {}).items()},
        **{key: described[key] for key in ("name", "mode", "status")},
        **{key: described.get(key) for key in ("seed", "parameters")},
        "device": described.get("device", ""),
        "evaluated": described.get("evaluated", "test"),
    }


def _facts(described: dict[str, Any]) -> Facts:
    require_types(described, {"name": str, "classes": list[str]})
    known = {k: v for k, v in require_types(described, _FACTS, required=False).items() if k in _FACTS}
    if any(v is not None and not 0 <= v < math.inf for v in known.values()):
        raise ValueError(f"an experience has {repr(known)}, and no time or size is below 0 or infinite")
    return Facts(**known)


def _read_json(path: Path, finite: bool = False) -> Any:
    try:
        return parsed_json(read_text(path), finite)
    except FileNotFoundError as error:
        raise ValueError(
            f"`{path.parent}` is not a run folder: it has no `{path.name}`; give a folder that `fit` wrote."
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`{path}` cannot be read ({in_one_line(error)}); restore it from a copy, or begin anew with `--overwrite`."
        ) from error


def _read_config(path: Path) -> str:
    try:
        if path.is_symlink():  # to any text of this machine, which would stand in the report
            raise ValueError("it is a symbolic link")
        return read_text(path, "replace") if path.exists() else ""
    except (OSError, ValueError) as error:
        raise ValueError(f"`{path}` cannot be read ({in_one_line(error)}); remove it or restore it.") from error


def _read_matrix(path: Path, run: Run) -> dict[str, NDArray[np.float64]]:
    size = len(run.experiences)
    if not run.finished and not path.exists():  # stopped or looked at before the first evaluation
        return {score.name: np.full((size, size), nan) for score in run.scores}
    stored, matrix = _read_json(path), {}
    for score in run.scores:
        try:
            rows = require_types(stored, {score.name: list[list[float | None]]})[score.name]
            R = np.array([[nan if v is None else v for v in row] for row in rows], dtype=np.float64)
        except ValueError as error:
            raise ValueError(
                f"`{path}` holds no matrix of numbers for `{score.name}` ({in_one_line(error)}); restore it"
                " from a copy, or begin anew with `--overwrite`."
            ) from error
        if R.shape != (size, size):
            raise ValueError(
                f"`{path}` holds a matrix of shape {R.shape} for `{score.name}`, and `run.json` beside it names {size}"
                " experiences; the two are not of one run, so begin anew with `--overwrite`."
            )
        matrix[score.name] = np.where(np.abs(R) <= HIGHEST, R, nan)
    return matrix


def _read_cases(path: Path, run: Run) -> tuple[CaseScores, ...]:
    if not path.exists():
        return ()
    try:
        names, count = [score.name for score in run.scores], len(run.experiences)
        return tuple(CaseScores.read(row, names, count) for row in csv_rows(read_text(path)))
    except (KeyError, OSError, ValueError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else in_one_line(error)
        raise ValueError(
            f"`{path}` is damaged ({said}); restore it from a copy, or begin anew with `--overwrite`."
        ) from error
