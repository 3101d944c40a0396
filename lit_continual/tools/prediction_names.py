"""What predictions are called, and which values classes have in them."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lit_continual.data import Case
from lit_continual.images.file_names import stem
from lit_continual.segmentation.segmenter import Segmenter

DEEPEST = 8  # folders that tell images apart


def prediction_name(image: str | Path, patient: str) -> str:
    """Name of a prediction: that of the first image, without the number of its channel where the case has none."""
    name = stem(image)
    return patient if name == f"{patient}_0000" else name


def prediction_names(cases: Sequence[Case], probabilities: bool) -> dict[str, Case]:
    """Give each case the name of its prediction.

    Where images of two folders have one name, as where each patient has a folder, all predictions begin with the name
    of the folder, or of as many as tell them apart.

    Args:
        cases: The images.
        probabilities: Whether ``<name>_probabilities`` are written too.

    Raises:
        ValueError: If two predictions would have one name all the same.
    """
    short = [prediction_name(case.images[0], case.patient) for case in cases]
    folders = [Path(os.path.abspath(case.images[0])).parent.parts[1:] for case in cases]
    for depth in range(DEEPEST + 1 if len(set(short)) < len(short) else 1):
        names = ["_".join([*parts[len(parts) - depth :], name]) for parts, name in zip(folders, short, strict=True)]
        if len(set(names)) == len(names):
            break
    found: dict[str, Case] = {}
    every = [*zip(names, cases, strict=True)]
    for name, case in [*every, *((f"{name}_probabilities", case) for name, case in every if probabilities)]:
        if (other := found.setdefault(name, case)) is not case:
            raise ValueError(
                f"The predictions of {other.images[0]} and {case.images[0]} would have one name. Rename one,"
                " or predict them into two folders."
            )
    return dict(every)


def values_of_classes(module: Segmenter, given: Mapping[str, int] | None = None) -> dict[str, int]:
    """Value of each class in a label map that is predicted.

    Args:
        module: The network.
        given: The value of each class; numbers from 1 in their order where it is ``None``.

    Raises:
        ValueError: If ``given`` lacks a class or has another, or a value is none of 16 bits.
    """
    if given is None:
        return {name: k for k, name in enumerate(module.classes, start=1)}
    if wrong := set(module.classes) ^ set(given):
        raise ValueError(
            f"--label_values must name the classes {', '.join(module.classes)}, and differs in {min(wrong)}."
        )
    most = np.iinfo(np.uint16).max
    if bad := [name for name, value in given.items() if not 0 <= value <= most]:
        raise ValueError(f"--label_values gives {bad[0]} the value {given[bad[0]]}, and must be from 0 to {most}.")
    return {name: given[name] for name in module.classes}


def labels_text(values: Mapping[str, int]) -> str:
    """Return what ``labels.json`` says of label maps with these values of the classes."""
    return json.dumps({"background": 0, **{name: value for name, value in values.items() if value}}, indent=1) + "\n"
