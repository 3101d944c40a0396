"""Who trains and who tests: patients are split, never images."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lit_continual.data.case_lists.cases import Case
from lit_continual.data.case_lists.dataset_json import LIST
from lit_continual.data.case_lists.fold_file import read_fold, require_known
from lit_continual.files.printing import printable, printable_errors

SPLITS = ("train", "val", "test")
MOST = 20  # values that an error names


@dataclass(frozen=True)
class Split:
    """How the patients of a data set are divided.

    Args:
        fractions: Shares of the patients for training, validation and test; they sum to one.
        seed: Seed of the shuffled order of the patients. The same for all experiences on one data set.
        key: Key of the data set's list that gives the split of each case (``train``, ``val``, ``test``) instead; of
            lists ``training``, ``validation`` and ``testing`` in one file it is ``list``.
        where: Keep only the cases whose keys, ``patient`` among them, have these values, such as ``{site: DU}``; done
            before splitting.
        part: ``[i, n]``: of the training patients only the i-th of n disjoint parts, counted from 0. The
            others are not divided, since no one trains on them.
        limit: At most so many training patients.
        fold: A fold of nnU-Net, from 0, whose ``val`` is the test split. Validation takes its share of the fold's
            ``train``, ``fractions[1] / (fractions[0] + fractions[1])``, so ``fractions: [1, 0, 0]`` trains on all.
            Who is in neither is left out.
        file: Where the folds are; by default ``splits_final.json`` beside the data set or in ``nnUNet_preprocessed``.
    """

    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seed: int = 0
    key: str | None = None
    where: dict[str, str] = field(default_factory=dict)
    part: tuple[int, int] | None = None
    limit: int | None = None
    fold: int | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) < 0 or not abs(sum(self.fractions) - 1) < 1e-6:
            raise ValueError(f"`fractions` must be three shares that sum to one, got {list(self.fractions)}.")
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise ValueError(f"`part` must be [i, n] with 0 <= i < n, got {list(self.part)}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"`limit` must be at least one patient, got {self.limit}.")
        if self.fold is not None and (self.fold < 0 or self.key is not None or sum(self.fractions[:2]) <= 0):
            raise ValueError(f"`fold` must be 0 or more, with patients to train on and without `key`, got {self}.")
        if self.file is not None and self.fold is None:
            raise ValueError(f"`file` {self.file} needs a `fold`, counted from 0.")


@printable_errors()
def split_cases(cases: Sequence[Case], split: Split, source: object) -> dict[str, list[Case]]:
    """Divide ``cases`` into ``train``, ``val`` and ``test`` by patient.

    Raises:
        ValueError: If nobody is left to train on, a key or a fold is missing, or one patient is in two splits.
    """
    keys = [{**case.keys, "patient": case.patient} for case in cases]
    wanted = [all(own.get(k) == str(v) for k, v in split.where.items()) for own in keys]
    chosen = [case for case, is_wanted in zip(cases, wanted, strict=True) if is_wanted]
    if not chosen:
        there = {k: sorted({own.get(k, "nothing") for own in keys})[:MOST] for k in split.where}
        raise ValueError(f"No case of {source} has {dict(split.where)}: it has {there}. Correct `split.where`.")
    if split.key is None and split.fold is None:
        chosen = _of_training(chosen, source)
    if split.fold is not None:
        groups = _folded(cases, {case.patient for case in chosen}, split, Path(str(source)))
    elif split.key is None:
        groups = _shuffled(sorted({case.patient for case in chosen}), split)
    else:
        groups = _given(chosen, split.key, source)
    if split.part is not None:
        i, n = split.part
        groups = {**groups, "train": groups["train"][i::n]}
    groups = {**groups, "train": groups["train"][: split.limit]}
    if not groups["train"]:
        patients = len({case.patient for case in chosen})
        raise ValueError(f"The training split of {source} is empty: {patients} patients for {split}. Change `split`.")
    return {name: [case for case in chosen if case.patient in set(groups[name])] for name in SPLITS}


@printable_errors()
def check_leakage(experiences: Mapping[str, Mapping[str, Sequence[Case]]]) -> None:
    """Refuse a stream in which somebody is in one split of one experience and in another split of another.

    Patients are distinguished by name, also between data sets: the two contrasts of one study share theirs.

    Args:
        experiences: For each experience the cases of each of its splits.

    Raises:
        ValueError: If a patient is in two splits.
    """
    places: dict[str, dict[str, str]] = {}  # patient -> split -> experience
    for name, splits in experiences.items():
        for split, cases in splits.items():
            for case in cases:
                places.setdefault(case.patient, {}).setdefault(split, name)
    for patient, found in places.items():
        if len(found) > 1:
            sides = " and ".join(f"the {split} split of {name}" for split, name in found.items())
            raise ValueError(
                f"Patient {patient} is in {sides}. Use one `split.seed` for a data set; where two people share a name,"
                " give the cases a `patient` key."
            )


def _of_training(cases: Sequence[Case], source: object) -> list[Case]:
    """The cases of a list that parts them that are its training cases; a warning says what is left out."""
    found = [case for case in cases if case.keys.get(LIST, "training") == "training"]
    if left := len(cases) - len(found):
        warnings.warn(
            printable(
                f"{left} cases that {source} lists for validation and testing are left out, and its training cases are"
                f" split anew. Give `split.key: {LIST}` to take the list's own parts."
            ),
            stacklevel=2,
        )
    return found


def _shuffled(patients: list[str], split: Split) -> dict[str, list[str]]:
    order = [patients[i] for i in np.random.default_rng(split.seed).permutation(len(patients))]
    test = round(split.fractions[2] * len(order))
    val = round(split.fractions[1] * len(order))
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}


def _folded(cases: Sequence[Case], chosen: set[str], split: Split, source: Path) -> dict[str, list[str]]:
    path, fold = read_fold(split.file, split.fold or 0, source)
    require_known([*fold["train"], *fold["val"]], {case.patient for case in cases}, path, source)
    train, val, _ = split.fractions
    order = _shuffled(sorted(chosen & {*fold["train"]}), replace(split, fractions=_shares(val / (train + val))))
    return {"train": order["train"], "val": order["val"], "test": sorted(chosen & {*fold["val"]})}


def _shares(val: float) -> tuple[float, float, float]:
    return 1 - val, val, 0.0


def _given(cases: Sequence[Case], key: str, source: object) -> dict[str, list[str]]:
    names = {"training": "train", "validation": "val", "testing": "test"}
    seen: dict[str, str] = {}
    for case in cases:
        value = case.keys.get(key)
        name = names.get(value or "", value)
        if name not in SPLITS:
            given = "no" if value is None else f"{value!r} as"
            raise ValueError(f"{case.images[0]} has {given} `{key}` in {source}. Use train, val or test.")
        if seen.setdefault(case.patient, name) != name:
            raise ValueError(
                f"Patient {case.patient} of {source} is in two splits, {seen[case.patient]} and {name}. Keep all images"
                " of a patient on one side."
            )
    return {name: [patient for patient, side in seen.items() if side == name] for name in SPLITS}
