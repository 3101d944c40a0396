"""Who trains and who tests: patients are split, never images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lit_continual.data.cases import Case

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """How the patients of a data set are divided.

    Args:
        fractions: Shares of the patients for training, validation and test; they sum to one.
        seed: Seed of the shuffled order of the patients. The same for all experiences on one data set.
        key: Key of the data set's list that gives the split of each case (``train``, ``val``, ``test``) instead.
        where: Keep only the cases whose keys have these values, such as ``{site: DU}``; done before splitting.
        part: ``[i, n]``: of the training patients only the i-th of n disjoint parts, counted from 0. Validation
            patients are divided alike; test patients are not, since no one trains on them.
        limit: At most so many training patients.
    """

    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seed: int = 0
    key: str | None = None
    where: dict[str, str] = field(default_factory=dict)
    part: tuple[int, int] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"`fractions` must be three shares that sum to one, got {list(self.fractions)}.")
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise ValueError(f"`part` must be [i, n] with 0 <= i < n, got {list(self.part)}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"`limit` must be at least one patient, got {self.limit}.")


def split_cases(cases: Sequence[Case], split: Split, source: object) -> dict[str, list[Case]]:
    """Divide ``cases`` into ``train``, ``val`` and ``test`` by patient.

    Raises:
        ValueError: If nobody is left to train on, a key is missing, or one patient is in two splits.
    """
    chosen = [case for case in cases if all(case.keys.get(k) == str(v) for k, v in split.where.items())]
    if not chosen:
        raise ValueError(f"No case of {source} has {dict(split.where)}. Correct `split.where`.")
    if split.key is None:
        groups = _shuffled(sorted({case.patient for case in chosen}), split)
    else:
        groups = _given(chosen, split.key, source)
    if split.part is not None:
        i, n = split.part
        groups = {**groups, "train": groups["train"][i::n], "val": groups["val"][i::n]}
    groups = {**groups, "train": groups["train"][: split.limit]}
    if not groups["train"]:
        patients = len({case.patient for case in chosen})
        raise ValueError(f"The training split of {source} is empty: {patients} patients for {split}. Change `split`.")
    return {name: [case for case in chosen if case.patient in set(groups[name])] for name in SPLITS}


def check_leakage(experiences: Mapping[str, Mapping[str, Sequence[Case]]]) -> None:
    """Refuse a stream in which somebody who is tested or validated on in one experience is trained on in another.

    Args:
        experiences: For each experience the cases of each of its splits.

    Raises:
        ValueError: If a patient is on both sides.
    """
    trained = {case.patient: name for name, splits in experiences.items() for case in splits["train"]}
    for name, splits in experiences.items():
        for held_out in ("val", "test"):
            for case in splits[held_out]:
                if case.patient in trained:
                    raise ValueError(
                        f"Patient {case.patient} is in the {held_out} split of {name} and in the training split of"
                        f" {trained[case.patient]}. Use one `split.seed` for a data set; where two people share a"
                        " name, give the cases a `patient` key."
                    )


def _shuffled(patients: list[str], split: Split) -> dict[str, list[str]]:
    order = [patients[i] for i in np.random.default_rng(split.seed).permutation(len(patients))]
    test = round(split.fractions[2] * len(order))
    val = round(split.fractions[1] * len(order))
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}


def _given(cases: Sequence[Case], key: str, source: object) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {name: [] for name in SPLITS}
    seen: dict[str, str] = {}
    for case in cases:
        name = {"training": "train", "validation": "val"}.get(case.keys.get(key, ""), case.keys.get(key, ""))
        if name not in groups:
            raise ValueError(f"{case.images[0]} has {key}={name!r} in {source}. Use train, val or test.")
        if seen.setdefault(case.patient, name) != name:
            raise ValueError(
                f"Patient {case.patient} of {source} is in two splits, {seen[case.patient]} and {name}. Keep all images"
                " of a patient on one side."
            )
        groups[name].append(case.patient)
    return groups
