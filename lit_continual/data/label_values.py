"""Which values label maps hold, and whether they are those that were declared."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from lit_continual.data.case_lists.cases import Case, CaseList
from lit_continual.data.loading import load_in_threads
from lit_continual.files.printing import printable_errors
from lit_continual.images.reading import label_values, read_volume

MOST = 2**16  # values of a label map that are counted; of others those that occur are sorted out


def values_in(label: Tensor) -> frozenset[float]:
    """Return the values that occur in a label map.

    Example:
        >>> sorted(values_in(torch.tensor([0.0, 7.0, 2.0, 7.0])))
        [0.0, 2.0, 7.0]
    """
    low, high = (float(end) for end in label.aminmax())
    if low >= 0 and high < MOST:
        whole = label.flatten().int()
        if torch.equal(whole.to(label.dtype), label.flatten()):  # an eighth of the time of sorting
            return frozenset(map(float, torch.bincount(whole).nonzero().flatten().tolist()))
    return frozenset(map(float, label.unique().tolist()))


def require_declared(path: Path, found: frozenset[float], classes: Mapping[str, int], listed: CaseList) -> None:
    """Check that a label map has no value that nobody declared.

    Args:
        path: The label map.
        found: Its values.
        classes: Label value of each revealed class.
        listed: Where it stands; declares the label values, or none.

    Raises:
        ValueError: If it has.
    """
    declared = {0, *(listed.labels.values() or (int(v) for v in found if v.is_integer())), *classes.values()}
    if not listed.labels and found - {0.0} == {255.0} and 255 not in classes.values():
        raise ValueError(
            f"{path} has the values 0 and 255, as some tools write a mask, and `classes` asks for"
            f" {', '.join(map(str, classes.values()))}: the case would be empty. Write 1 for 255, or declare `labels`."
        )
    if unknown := sorted(found - declared):
        raise ValueError(
            f"{path} has the label value {unknown[0]:g}, which is not declared ({sorted(declared)})."
            f" Declare it under `labels` in {listed.source} or correct the label map."
        )


def require_taught(present: Mapping[str, bool], count: int, listed: CaseList) -> None:
    """Check that each revealed class occurs in one of ``count`` training cases.

    Raises:
        ValueError: If one does not.
    """
    for name in (name for name, found in present.items() if not found):
        raise ValueError(
            f"The class {name} occurs in none of the {count} training cases of {listed.source}."
            " Correct its label value or change `split`."
        )


@printable_errors()
def require_label_maps(
    cases: Mapping[str, Sequence[Case]], classes: Mapping[str, int], listed: CaseList, threads: int
) -> None:
    """Read the label map of each case, so that a bad one stops a stream before its first fit and not after the last.

    Args:
        cases: Those of each split.
        classes: Label value of each revealed class.
        listed: Where the cases stand.
        threads: How many are read at a time.

    Raises:
        ValueError: If one is missing, cannot be read or has a value that nobody declared, or a class occurs in none of
            the training cases.
    """
    others = [case for split, some in cases.items() if split != "train" for case in some]
    every = [*cases["train"], *others]

    def examine(k: int) -> frozenset[float]:
        path = label_of(every[k], listed)
        found = _values_of(path, *_state(path))
        require_declared(path, found, classes, listed)
        return found

    found = load_in_threads(examine, range(len(every)), threads, "label maps")
    taught = frozenset[float]().union(*found[: len(cases["train"])])
    require_taught({name: value in taught for name, value in classes.items()}, len(cases["train"]), listed)


def label_of(case: Case, listed: CaseList) -> Path:
    """Return the label map of a case.

    Raises:
        ValueError: If it has none.
    """
    if case.label is None:
        raise ValueError(f"{case.images[0]} has no label in {listed.source}. Add one to train or evaluate on it.")
    return case.label


def read_label(path: Path) -> MetaTensor:
    """Read a label map, ``(1, H, W, D)``.

    Raises:
        ValueError: If it cannot be read, or has several channels.
    """
    label = read_volume(path)
    if len(label) > 1:
        raise ValueError(f"{path} has {len(label)} channels. Give one label map with a value for each class.")
    return label


def _state(path: Path) -> tuple[int, ...]:
    """What distinguishes a file from one that was under its name before; nothing where there is none."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ()


@cache
def _values_of(path: Path, *state: int) -> frozenset[float]:
    """The values of a file, which experiences that share patients ask for again."""
    return values_in(label_values(read_label(path)))
