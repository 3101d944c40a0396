"""The label values of the classes that an experience reveals."""

from collections.abc import Mapping
from typing import Any

from lit_continual.data.case_lists.cases import CaseList
from lit_continual.data.case_lists.dataset_json import IGNORE


def values_of(classes: Mapping[str, int | str], listed: CaseList) -> dict[str, int]:
    """Look up the label value of each revealed class.

    Args:
        classes: Name of each class to its label value, or to the name that the data set has for it.
        listed: The data set, which declares its labels or not.

    Raises:
        ValueError: If the data set declares no such class or another value, two share one, one is background, one is a
            region of several, or there are voxels that nobody annotated.

    Example:
        >>> from pathlib import Path
        >>> values_of({"bone": "os", "muscle": 2}, CaseList(Path("dataset.json"), (), {"os": 1, "muscle": 2}))
        {'bone': 1, 'muscle': 2}
    """
    labels, source, values = listed.labels, listed.source, dict[str, int]()
    if not classes:
        raise ValueError("`classes` is empty. Name what is revealed, such as `classes: {humerus: 1}`.")
    if fault := ignore_fault(listed):
        raise ValueError(fault)
    for name, value in classes.items():
        known = name if isinstance(value, int) else value
        if len(parts := listed.regions.get(known, ())) > 1:
            raise ValueError(
                f"`classes` has {name}, a region that {source} makes of {', '.join(parts)}. Reveal these, and name the"
                " region under `regions` of a RegionSegmenter."
            )
        found = labels.get(known, value if isinstance(value, int) and not labels else None)
        if found is None or (isinstance(value, int) and found != value):
            declared = ", ".join(f"{k}: {v}" for k, v in labels.items())
            raise ValueError(
                f"`classes` has {name}: {value}, but {source} declares {f'{{{declared}}}' if labels else 'no names'}."
                " Use a declared name and value, or give your name for a declared one as `classes: {mine: theirs}`."
            )
        if not found or found in values.values():
            names = f"{found} two names: {classes}" if found else f"0, that of the background, the name {name}"
            raise ValueError(f"`classes` gives the label value {names}. Drop one.")
        values[name] = found
    return values


def require_names(classes: Mapping[Any, Any]) -> None:
    """Check that names of classes are text without a slash; YAML makes a number of 1, and true of yes.

    Raises:
        ValueError: If one is not.
    """
    if other := [name for name in classes if not isinstance(name, str)]:
        raise ValueError(f'`classes` has the name {other[0]!r}, which is no text. Write it in quotes: "{other[0]}".')
    if any(not name or "/" in name for name in classes):
        raise ValueError(f"`classes` must be names without '/', got {list(classes)}.")


def ignore_fault(listed: CaseList) -> str | None:
    """What is wrong with a data set that leaves voxels without annotation; ``None`` where none may be so."""
    if IGNORE not in listed.labels:
        return None
    return (
        f"{listed.source} declares the label `{IGNORE}` for voxels that nobody annotated, and all are trained on here."
        f" Annotate them or leave those cases out, and take `{IGNORE}` out of its `labels`."
    )
