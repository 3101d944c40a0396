"""What a data set holds: its classes, sizes and intensities."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from lit_continual.data.case_lists.cases import CaseList, read_cases
from lit_continual.data.case_lists.dataset_json import IGNORE
from lit_continual.data.case_lists.fold_file import fold_file_of
from lit_continual.data.case_lists.revealed_classes import ignore_fault
from lit_continual.tools.init.case_facts import CaseFacts, examine
from lit_continual.tools.init.geometry import by

PLAIN = ("cases", "data", "dataset", "list", "train", "training")  # names of tables that say nothing


@dataclass(frozen=True)
class DataSetFacts:
    """What is known of one data set.

    Attributes:
        given: How it was named on the command line.
        name: A name for it, of letters, digits, spaces, ``_``, ``.`` and ``-``.
        listed: Its cases and what it declares.
        cases: The facts of each case.
        classes: Label value of each class that occurs, or its name in the data set where it has a name of its own here.
        channels: How many channels its images have.
        folds: Whether folds of nnU-Net lie beside it.
    """

    given: str
    name: str
    listed: CaseList
    cases: tuple[CaseFacts, ...]
    classes: dict[str, int | str]
    channels: int
    folds: bool

    def value(self, name: str) -> int:
        """Return the label value of one of ``classes``."""
        found = self.classes[name]
        return found if isinstance(found, int) else self.listed.labels[found]

    def share(self, name: str) -> float:
        """Return the median share that one of ``classes`` has of the volumes in which it is."""
        value = self.value(name)
        return float(np.median([facts.voxels[value] / np.prod(facts.shape) for facts in self._with(value)]))

    def described(self) -> str:
        """Say in a line what it holds: how many images, how large, and its classes with their median volumes."""
        sizes = np.median([facts.shape for facts in self.cases], axis=0)
        spacing = np.median([facts.spacing for facts in self.cases], axis=0)
        parts = []
        for name in self.classes:
            value = self.value(name)
            found = [facts.voxels[value] * float(np.prod(facts.spacing)) / 1000 for facts in self._with(value)]
            parts.append(f"{name} {np.median(found):.3g} ml in {len(found)}")
        return (
            f"{self.given}: {len(self.cases)} images of {len(self.patients)} patients, {by(sizes)} voxels of"
            f" {by(spacing)} mm; {', '.join(parts[:20])}{' and more' if len(parts) > 20 else ''}"
        )

    def _with(self, value: int) -> list[CaseFacts]:
        return [facts for facts in self.cases if value in facts.voxels]

    @property
    def patients(self) -> list[str]:
        """Everybody in it, sorted."""
        return sorted({facts.case.patient for facts in self.cases})


def read_data_set(dataset: str, report: Callable[[str], None]) -> DataSetFacts | None:
    """Read every image and label map of a data set.

    Args:
        dataset: As :func:`read_cases` takes it.
        report: Given each sentence that says what is wrong.

    Returns:
        The facts; ``None`` where no case is right.
    """
    left_out = 0

    def count(fault: str) -> None:
        nonlocal left_out
        left_out += 1
        report(fault)

    listed = read_cases(dataset, count)
    if listed.count not in (None, len(listed.cases) + left_out):
        report(
            f"{listed.source} has a `numTraining` of {listed.count}, and lists {len(listed.cases) + left_out} cases."
            " Restore those that lack, or correct the number."
        )
    if fault := ignore_fault(listed):
        report(fault)
    bar = tqdm(listed.cases, desc=f"Reading {dataset}"[:40], leave=False, disable=None)
    found = tuple(facts for case in bar if (facts := examine(case, listed, report)) is not None)
    if not found:
        return None
    channels = _channels(found, report)
    _report_two_tools(found, listed, report)
    name = _name_of(listed.source)
    classes = _classes(found, listed, name)
    if not classes:
        report(f"{listed.source} has label maps of background alone. Give such as have a class.")
    return DataSetFacts(dataset, name, listed, found, classes, channels, fold_file_of(listed.source) is not None)


def clean(name: str) -> str:
    r"""Return a name without what paths, tables and YAML give a meaning.

    Example:
        >>> clean("kidney/left\n"), clean("--"), clean("..")
        ('kidney_left', '_', '_')
    """
    kept = re.sub(r"[^\w .+-]+", "_", name).strip(" ._-")
    return kept[:60].strip(" .") or "_"


def _name_of(source: Path) -> str:
    place = source.resolve()
    if place.is_dir():
        return clean(place.name)
    return clean(place.parent.name if place.suffix == ".json" or place.stem.lower() in PLAIN else place.stem)


def _channels(found: Sequence[CaseFacts], report: Callable[[str], None]) -> int:
    counts = [len(facts.foreground) for facts in found]
    usual = max(counts, key=counts.count)
    for facts, count in zip(found, counts, strict=True):
        if count != usual:
            report(
                f"{facts.case.images[0]} has {count} channels, and {counts.count(usual)} of {len(counts)} images have"
                f" {usual}. Give every image the same ones, or take this one off the list."
            )
    return usual


def _report_two_tools(found: Sequence[CaseFacts], listed: CaseList, report: Callable[[str], None]) -> None:
    """Find one class that has 255 in the label maps of one tool and 1 in those of another."""
    masks = [facts for facts in found if 255 in facts.voxels]
    others = [facts for facts in found if facts.voxels and 255 not in facts.voxels]
    if listed.labels or not others:
        return
    values = ", ".join(map(str, others[0].voxels))
    for facts in masks:
        if len(facts.voxels) == 1:
            report(
                f"{facts.case.label} has 255 alone, and {others[0].case.label} has {values}. Write one value for one"
                " class, or declare both in a dataset.json."
            )


def _classes(found: Sequence[CaseFacts], listed: CaseList, name: str) -> dict[str, int | str]:
    values = sorted({value for facts in found for value in facts.voxels})
    if not listed.labels:
        return {name: values[0]} if len(values) == 1 else {f"{name} {value}": value for value in values}
    classes: dict[str, int | str] = {}
    for label, value in listed.labels.items():
        if value in values and label != IGNORE:
            mine = clean(label)
            classes[mine if mine not in classes else f"{mine} {value}"] = value if mine == label else label
    return classes
