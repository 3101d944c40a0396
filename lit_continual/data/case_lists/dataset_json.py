"""What a ``dataset.json`` says: of the Medical Segmentation Decathlon, or of a raw data set of nnU-Net."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr
from typing import Any

from lit_continual.files.whole_files import parsed_json, read_text

#: What nnU-Net calls the label of voxels that nobody annotated.
IGNORE = "ignore"
#: Lists of further cases that a data list of MONAI has, and the key of a case that says in which it stands.
OTHERS, LIST = ("validation", "testing", "test"), "list"


@dataclass(frozen=True)
class DatasetJson:
    """A ``dataset.json`` that has been read.

    Attributes:
        labels: Value of each label, by name.
        regions: Names of the labels of each region, where labels are lists of values as of nnU-Net.
        channels: Names of the channels, such as ``CT``; none where the file does not say.
        entries: Image, label and further keys of each case; ``None`` where they lie in ``imagesTr`` and ``labelsTr``.
        file_ending: How the files there end; ``None`` in a list of the Decathlon.
        count: How many cases there should be, ``numTraining``.
    """

    labels: Mapping[str, int]
    regions: Mapping[str, tuple[str, ...]]
    channels: tuple[str, ...]
    entries: list[Mapping[str, Any]] | None
    file_ending: str | None = None
    count: int | None = None


def read_dataset_json(path: Path) -> DatasetJson:
    """Read a ``dataset.json``.

    Raises:
        ValueError: If it is neither a Decathlon list nor nnU-Net's, or two labels share a name.
    """
    try:
        content = parsed_json(read_text(path))
        declared = content.get("labels", {})
        names = [(v, k) if str(k).lstrip("-").isdigit() else (k, v) for k, v in declared.items()]  # both ways around
        values = {str(name): _values(value) for name, value in names}
        named = content.get("channel_names", content.get("modality", {}))
        channels = tuple(str(named[k]) for k in sorted(named, key=int)) if isinstance(named, Mapping) else ()
        ending = content.get("file_ending")
        entries = _entries(content)
        count = content.get("numTraining")
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} is not a Decathlon list ({f'{error!r}'[:300]}). It needs `training`, a list of `image` and"
            " `label`, and `labels`, value to name; nnU-Net's has `file_ending` in place of `training`."
        ) from error
    if len(values) < len(names):
        raise ValueError(
            f"{path} declares one name for two label values: {repr(declared)}. Give each value its own name."
        )
    labels, regions = _named_values(values, path)
    return DatasetJson(
        labels,
        regions,
        channels,
        entries,
        None if ending is None else str(ending),
        count if isinstance(count, int) else None,
    )


def _entries(content: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    if "dataset" in content:  # nnU-Net's list of files that lie anywhere
        return [
            {"image": [*part["images"]], "label": part["label"], "patient": name}
            for name, part in content["dataset"].items()
        ]
    if "file_ending" in content:
        return None
    training: list[Any] = list(content["training"])
    others = {name: content.get(name) for name in OTHERS}
    given = {name: cases for name, cases in others.items() if isinstance(cases, list) and _labelled(cases)}
    if not given:
        return training
    parts = {"training": training, **given}
    return [
        {LIST: name, **case} if isinstance(case, Mapping) else case for name, part in parts.items() for case in part
    ]


def _labelled(cases: list[Any]) -> bool:
    """Whether a list is one of images with labels, which the Decathlon's own of test images is not."""
    return bool(cases) and all(isinstance(case, Mapping) and case.get("label") for case in cases)


def _values(value: Any) -> int | tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, list) else int(value)


def _named_values(
    values: Mapping[str, int | tuple[int, ...]], path: Path
) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Name every label value, and the regions by these names: a value without a name of its own is ``label_VALUE``."""
    lists = {name: (v,) if isinstance(v, int) else v for name, v in values.items()}
    singles = {name: v[0] for name, v in lists.items() if len(v) == 1}
    if len(singles) == len(lists) and all(isinstance(v, int) for v in values.values()):
        return singles, {}
    names = {value: name for name, value in singles.items()}
    for value in (v for found in lists.values() for v in found):
        names.setdefault(value, f"label_{value}")
    labels = {name: value for value, name in sorted(names.items())}
    if len(labels) < len(names) or not all(lists.values()):
        raise ValueError(f"{path} has labels that name no value, or one name twice: {repr(dict(values))}. Correct it.")
    of_regions = {name: v for name, v in lists.items() if v != (0,) and name != IGNORE}
    return labels, {name: tuple(names[value] for value in v) for name, v in of_regions.items()}
