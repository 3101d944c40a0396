"""What a data set holds: its cases, and the names of its label values."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr
from typing import Any

from lit_continual.data.case_lists.case_table import read_table
from lit_continual.data.case_lists.dataset_json import DatasetJson, read_dataset_json
from lit_continual.files.printing import printable_errors
from lit_continual.images.file_names import NIFTI, SUFFIXES, is_image, is_nifti, stem


@dataclass(frozen=True)
class Case:
    """One annotated image: its files, whose it is, and whatever else its list says of it, such as ``site``."""

    images: tuple[Path, ...]
    label: Path | None
    patient: str
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """All that it is read from."""
        return [*self.images, *([self.label] if self.label else [])]


@dataclass(frozen=True)
class CaseList:
    """The cases of a data set and what it declares of them; empty where it declares nothing.

    Attributes:
        source: The file or folder that was read.
        cases: The annotated images.
        labels: Label value of each name.
        regions: The labels of each region, where a ``dataset.json`` of nnU-Net gives lists of values.
        channels: Names of the channels, such as ``CT``.
        count: How many cases it says that it has.
    """

    source: Path
    cases: tuple[Case, ...]
    labels: Mapping[str, int]
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    count: int | None = None


def refuse(fault: str) -> None:
    """Raise what is wrong with one case, as a ``ValueError``."""
    raise ValueError(fault)


def data_set_path(dataset: str | os.PathLike[str]) -> Path:
    """Where a data set is: a path, in which ``~`` and environment variables are expanded.

    The name of a raw data set of nnU-Net, such as ``Dataset001_Liver``, stands for its folder in ``nnUNet_raw``, an
    environment variable, unless something of this name is in the current folder.
    """
    path = Path(os.path.expandvars(os.path.expanduser(dataset)))
    raw = os.environ.get("nnUNet_raw")  # noqa: SIM112  # so it is spelt there
    if raw and path.parent == Path() and path.name.startswith("Dataset") and not path.exists():
        return named if (named := Path(raw) / path).is_dir() else path
    return path


@printable_errors()
def read_cases(dataset: str | os.PathLike[str], report: Callable[[str], None] = refuse) -> CaseList:
    """Read a Decathlon ``dataset.json``, a CSV table, or a folder.

    * JSON: ``training`` lists ``image`` (a path, or one a channel), ``label`` and further keys; ``labels`` names the
      values.
    * CSV: columns ``image`` (or ``image_0``, ``image_1``, … for channels), ``label``, and further keys.
    * One image, such as to predict it.
    * Folder: ``dataset.json`` in it, or ``images/`` and ``labels/`` with the same file names; ``NAME_0000``,
      ``NAME_0001``, … are the channels of ``NAME``, unless there are labels of these names. Without ``labels/`` the
      images stand alone.
    * Raw data of nnU-Net: ``imagesTr/`` and ``labelsTr/`` are such folders too, of which the files that end with
      ``file_ending`` are read, or those that its ``dataset`` lists. ``dataset.json`` names channels and label values;
      where a label is a list of values it is a region, and a value without a name of its own is ``label_VALUE``. Its
      name alone is looked up in ``nnUNet_raw``, by :func:`data_set_path`.

    The key ``patient`` says whose image it is, by default the name of the first image file. Paths in a list are
    relative to it, or absolute, and taken as they stand: ``~`` and environment variables are expanded in ``dataset``
    alone. The files that a list names are read, and never written to.

    Args:
        dataset: What is read.
        report: What to do with the sentence that says what is wrong with one case; by default the first is raised. A
            case that is reported is left out.

    Raises:
        ValueError: If the data set is missing, empty or malformed, a file that it names is not there, or it leaves open
            whose an image is.
    """
    path = data_set_path(dataset)
    if "$" in str(path) and not path.exists():
        raise ValueError(f"The data set {dataset} names an environment variable that is not set. Export it first.")
    if path.is_dir():
        path = path / "dataset.json" if (path / "dataset.json").is_file() else path
    if not path.exists():
        seen_from = "" if path.is_absolute() else f", seen from {Path.cwd()}"
        raise ValueError(
            f"There is no data set at {dataset}{seen_from}. Give a dataset.json, a CSV table, a folder or one image."
        )
    said = DatasetJson({}, {}, (), None)
    if path.is_dir():
        entries = _folder(path, report)
    elif path.suffix == ".json":
        said = read_dataset_json(path)
        entries = _raw_folder(path, said.file_ending, report) if said.entries is None else said.entries
    elif path.suffix == ".csv":
        entries = read_table(path)
    elif is_image(path):
        entries = [{"image": path.name}]
    else:
        raise ValueError(f"{path} is no data set. Give a dataset.json, a CSV table or a folder.")
    if not entries:
        raise ValueError(f"{path} lists no case. Give images in {path if path.is_dir() else 'it'}.")
    root = path if path.is_dir() else path.parent
    named: list[tuple[Case, bool]] = []
    for entry in entries:
        try:
            named.append((_case(entry, root, path), _named(entry)))
        except ValueError as error:
            report(str(error))
    cases = tuple(_told_apart(named, path, report))
    return CaseList(path, cases, said.labels, said.regions, said.channels, said.count)


def _case(entry: Mapping[str, Any], root: Path, source: Path) -> Case:
    if not isinstance(entry, Mapping) or not entry.get("image"):
        raise ValueError(f"{source} has an entry without an image: {repr(entry)}. Name its file under `image`.")
    names = entry["image"] if isinstance(entry["image"], (list, tuple)) else [entry["image"]]
    if not all(isinstance(name, str) and name for name in (*names, entry.get("label") or "-")):
        raise ValueError(f"{source} has an entry whose files are not all named: {repr(dict(entry))}. Give each a path.")
    images = tuple(root / name for name in names)
    label = root / entry["label"] if entry.get("label") else None
    for file in (*images, *([label] if label else [])):
        if not _is_file(file):
            raise ValueError(
                f"{str(file)[:1000]} is listed in {source} but is not there. Restore it or take it off the list."
            )
        if is_nifti(file) and not file.name.endswith((*NIFTI, *(suffix.upper() for suffix in NIFTI))):
            raise ValueError(f"{file} has capitals in a part of its suffix, which nibabel does not find. Rename it.")
    patient = str(entry["patient"]).strip() if _named(entry) else stem(images[0])
    if not _is_text(patient):
        raise ValueError(f"{source} has a patient {patient!r}, whose name is no text that can be written. Rename it.")
    keys = {k: str(v).strip() for k, v in entry.items() if k not in ("image", "label", "patient") and v is not None}
    return Case(images, label, patient, keys)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for any file
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half a character, from JSON or from a file name in another encoding
        return False
    return True


def _named(entry: Mapping[str, Any]) -> bool:
    return entry.get("patient") is not None and bool(str(entry["patient"]).strip())


def _told_apart(named: Sequence[tuple[Case, bool]], source: Path, report: Callable[[str], None]) -> Iterator[Case]:
    """Yield the cases without those by which a split by patient could not keep people apart."""
    files: dict[tuple[int, int], Case] = {}
    patients: dict[str, Case] = {}
    for case, has_name in named:
        first = named[0][0].images
        if len(case.images) != len(first):
            report(
                f"{source} has {len(first)} channels for {first[0]} and {len(case.images)} for {case.images[0]}. Give"
                " every case the same ones."
            )
            continue
        found = case.images[0].stat()  # hard links share it
        twin = files.setdefault((found.st_dev, found.st_ino), case)
        if twin is not case and (twin.patient != case.patient or twin.label == case.label):
            report(f"{source} lists {case.images[0]} twice. Take one of the two off the list.")
            continue
        other = patients.setdefault(case.patient, case)
        if not has_name and other.images[0].resolve() != case.images[0].resolve():
            report(
                f"{other.images[0]} and {case.images[0]} in {source} have one name, and so would count as one patient."
                " Give each case the key `patient`."
            )
            continue
        yield case


def _raw_folder(path: Path, ending: str | None, report: Callable[[str], None]) -> list[Mapping[str, Any]]:
    """The files of nnU-Net's folders, which it finds by their ending."""
    folder = path.parent
    if ending not in SUFFIXES:
        raise ValueError(
            f"{path} has the `file_ending` {ending!r}, and {', '.join(SUFFIXES)} are read. Convert the images, such as"
            " by SimpleITK, and correct it."
        )
    for name in ("imagesTr", "labelsTr"):
        if not (folder / name).is_dir() or not _images(folder / name, ending):
            raise ValueError(f"{folder / name} has no image that ends with {ending}, as {path} says. Correct either.")
    return _folder(folder, report, ending)


def _folder(path: Path, report: Callable[[str], None], ending: str = "") -> list[Mapping[str, Any]]:
    folder = next((path / name for name in ("images", "imagesTr") if (path / name).is_dir()), path)
    truths = next((path / name for name in ("labels", "labelsTr") if (path / name).is_dir()), None)
    channels: dict[str, list[str]] = {}
    labels = {stem(file): file for file in _images(truths, ending)} if truths else {}
    images = _images(folder, ending)
    names = {stem(file) for file in images}
    for file in images:
        name = stem(file)
        head, _, tail = name.rpartition("_")
        is_channel = len(tail) == 4 and tail.isdigit() and f"{head}_0000" in names and name not in labels
        case = head if is_channel else name
        if case == name and case in channels:
            raise ValueError(f"{folder} has two images named {case}. Remove one of them.")
        channels.setdefault(case, []).append(str(file.relative_to(path)))
    missing = channels.keys() - labels.keys() if truths else set()
    for case in sorted(missing):
        report(f"{truths} has no label for {case}. Add it or remove the image.")
    entries: list[Mapping[str, Any]] = []
    for case, files in channels.items():
        if case in missing:
            continue
        label = {"label": str(labels[case].relative_to(path))} if labels else {}
        entries.append({"image": files, "patient": case, **label})
    return entries


def _images(folder: Path, ending: str) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_image(file) and file.name.endswith(ending))
