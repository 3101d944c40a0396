"""What a data set holds: its cases, and the names of its label values."""

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


@dataclass(frozen=True)
class Case:
    """One annotated image: its files, whose it is, and whatever else its list says of it, such as ``site``."""

    images: tuple[Path, ...]
    label: Path | None
    patient: str
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseList:
    """The cases of a data set and the label values that it declares, name -> value; empty where it declares none."""

    source: Path
    cases: tuple[Case, ...]
    labels: Mapping[str, int]


def read_cases(dataset: str | os.PathLike[str]) -> CaseList:
    """Read a Decathlon ``dataset.json``, a CSV table, or a folder.

    * JSON: ``training`` lists ``image`` (a path, or one a channel), ``label`` and further keys; ``labels`` names values.
    * CSV: columns ``image`` (or ``image_0``, ``image_1``, … for channels), ``label``, and further keys.
    * Folder: ``dataset.json`` in it, or ``images/`` and ``labels/`` with the same file names; ``NAME_0000``,
      ``NAME_0001``, … are the channels of ``NAME``. Without ``labels/`` the images stand alone.

    The key ``patient`` says whose image it is, by default the name of the first image file. Paths are relative to the
    list. ``~`` and environment variables are expanded.

    Raises:
        ValueError: If the data set is missing, empty or malformed, or a file that it names is not there.
    """
    path = Path(os.path.expandvars(os.path.expanduser(dataset)))
    if "$" in str(path):
        raise ValueError(f"The data set {dataset} names an environment variable that is not set. Export it first.")
    if path.is_dir():
        path = path / "dataset.json" if (path / "dataset.json").is_file() else path
    if not path.exists():
        raise ValueError(f"There is no data set at {path}. Give a dataset.json, a CSV table or a folder.")
    labels: Mapping[str, int] = {}
    if path.is_dir():
        entries = _folder(path)
    elif path.suffix == ".json":
        entries, labels = _decathlon(path)
    elif path.suffix == ".csv":
        entries = _table(path)
    else:
        raise ValueError(f"{path} is no data set. Give a dataset.json, a CSV table or a folder.")
    if not entries:
        raise ValueError(f"{path} lists no case. Give images in {path if path.is_dir() else 'it'}.")
    root = path if path.is_dir() else path.parent
    return CaseList(path, tuple(_case(entry, root, path) for entry in entries), labels)


def stem(path: str | os.PathLike[str]) -> str:
    """Name of an image file without its suffix, ``.nii.gz`` included."""
    name = Path(path).name
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.endswith(suffix)), Path(name).stem)


def _case(entry: Mapping[str, Any], root: Path, source: Path) -> Case:
    if not entry.get("image"):
        raise ValueError(f"{source} has an entry without an image: {dict(entry)}. Name its file under `image`.")
    names = entry["image"] if isinstance(entry["image"], (list, tuple)) else [entry["image"]]
    images = tuple(root / name for name in names)
    label = root / entry["label"] if entry.get("label") else None
    for file in (*images, *([label] if label else [])):
        if not file.is_file():
            raise ValueError(f"{file} is listed in {source} but is not there. Restore it or take it off the list.")
    keys = {k: str(v) for k, v in entry.items() if k not in ("image", "label", "patient")}
    return Case(images, label, str(entry.get("patient") or stem(images[0])), keys)


def _decathlon(path: Path) -> tuple[list[Mapping[str, Any]], Mapping[str, int]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        declared = content.get("labels", {})
        names = [(v, k) if str(k).lstrip("-").isdigit() else (k, v) for k, v in declared.items()]  # both ways around
        return content["training"], {str(name): int(value) for name, value in names}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a Decathlon list ({error!r}). It needs `training`, a list of `image` and `label`, and"
            " `labels`, value to name."
        ) from error


def _table(path: Path) -> list[Mapping[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    channels = sorted((c for c in (rows[0] if rows else {}) if c and c.startswith("image_")), key=lambda c: int(c[6:]))
    return [{**row, "image": [row[c] for c in channels] or row.get("image")} for row in rows]


def _folder(path: Path) -> list[Mapping[str, Any]]:
    folder = path / "images" if (path / "images").is_dir() else path
    channels: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        if file.name.endswith(SUFFIXES):
            name = stem(file)
            head, _, tail = name.rpartition("_")
            case = (
                head
                if len(tail) == 4 and tail.isdigit() and (folder / file.name.replace(name, f"{head}_0000")).exists()
                else name
            )
            channels.setdefault(case, []).append(str(file.relative_to(path)))
    labels = {stem(file): file for file in (path / "labels").iterdir()} if (path / "labels").is_dir() else {}
    if labels and (missing := sorted(channels.keys() - labels.keys())):
        raise ValueError(f"{path / 'labels'} has no label for {', '.join(missing[:3])}. Add it or remove the image.")
    entries: list[Mapping[str, Any]] = []
    for case, images in channels.items():
        label = {"label": str(labels[case].relative_to(path))} if labels else {}
        entries.append({"image": images, "patient": case, **label})
    return entries
