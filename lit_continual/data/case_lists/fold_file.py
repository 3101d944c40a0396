"""The folds of nnU-Net: who trains and who is held out, in ``splits_final.json``."""

import os
from collections.abc import Sequence
from pathlib import Path

from lit_continual.files.whole_files import read_json

NAME = "splits_final.json"


def fold_file_of(source: Path) -> Path | None:
    """Find the ``splits_final.json`` of a data set: in its folder, or in that of its name in ``nnUNet_preprocessed``.

    The latter is the environment variable of nnU-Net, or else the folder beside ``nnUNet_raw``.
    """
    folder = source if source.is_dir() else source.parent
    beside = folder.resolve().parent.parent / "nnUNet_preprocessed"
    roots = [Path(os.environ.get("nnUNet_preprocessed") or beside), beside]  # noqa: SIM112  # so it is spelt there
    places = [folder / NAME, *(root / folder.resolve().name / NAME for root in roots)]
    return next((path for path in places if path.is_file()), None)


def read_fold(file: str | None, fold: int, source: Path) -> tuple[Path, dict[str, list[str]]]:
    """Read one fold.

    Args:
        file: Where the folds are; ``None`` looks them up by :func:`fold_file_of`.
        fold: Which of them, from 0.
        source: Of the data set.

    Returns:
        The file, and the names of the cases under ``train`` and ``val``.

    Raises:
        ValueError: If there is no such file or fold, it is malformed, or a case is in both.
    """
    path = Path(os.path.expandvars(os.path.expanduser(file))) if file else fold_file_of(source)
    if path is None or not path.is_file():
        raise ValueError(
            f"There is no {file or NAME}, seen from {Path.cwd() if file else source}, in which to look up the fold"
            f" {fold}. Give its path as `split.file`."
        )
    folds = read_json(path)
    if not isinstance(folds, list) or not all(map(_is_fold, folds)):
        raise ValueError(f"{path} is no list of folds, each with the names of cases under `train` and `val`.")
    if fold >= len(folds):
        raise ValueError(f"{path} has {len(folds)} folds, counted from 0, and no fold {fold}. Correct `split.fold`.")
    found = {side: list(folds[fold][side]) for side in ("train", "val")}
    if both := sorted({*found["train"]} & {*found["val"]}):
        raise ValueError(f"The fold {fold} of {path} has {both[0]} under `train` and `val`. Take it from one of them.")
    return path, found


def require_known(names: Sequence[str], patients: set[str], path: Path, source: Path) -> None:
    """Check that a data set has the cases that a fold names.

    Raises:
        ValueError: If it lacks one.
    """
    if unknown := sorted(set(names) - patients):
        raise ValueError(
            f"{path} names the case {unknown[0]}, one of {len(unknown)} that {source} has not. Give the folds of this"
            " data set, whose names are those of its patients."
        )


def _is_fold(fold: object) -> bool:
    sides = [fold.get(side) for side in ("train", "val")] if isinstance(fold, dict) else [None]
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in sides)
