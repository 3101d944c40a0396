"""Hyper-parameters of a checkpoint: plain data, and descriptions of the objects that a file may name."""

from collections.abc import Callable, Collection, Mapping
from math import prod
from reprlib import repr
from typing import Any

from lit_continual.files.plain_data import fits
from lit_continual.runs.checkpoints.arguments_of_files import LONGEST
from lit_continual.runs.checkpoints.classes import NETWORKS, TRANSFORMS
from lit_continual.runs.checkpoints.registry import Registry

LARGEST, MOST = 2**16, 2**28  # voxels along an axis of a window, and in it

#: Which hyper-parameters, beside ``network``, describe a list of objects, and of which kind.
LISTED: dict[str, Registry] = {"post": TRANSFORMS, "normalise": TRANSFORMS}
#: Which are plain data of another program, and what returns them if they name nothing that no file may name.
CHECKS: dict[str, Callable[[Any, Collection[str]], Any]] = {}


def checked_parameter(key: str, value: Any, trust: Collection[str]) -> Any:
    """Return a hyper-parameter: a described object of a known kind, or plain data that describes none.

    Raises:
        ValueError: If it describes another one.
    """
    if key == "network":
        return NETWORKS.checked(value, trust)
    if key in LISTED:
        steps = [value] if isinstance(value, (str, Mapping)) else value or ()
        if not isinstance(steps, (list, tuple)):
            raise ValueError(f"`{key}` is a {type(value).__name__}, not a list of transforms. Use another checkpoint.")
        if len(steps) > LONGEST:
            raise ValueError(
                f"`{key}` has {len(steps)} transforms, and at most {LONGEST} are read. Use another checkpoint."
            )
        return [LISTED[key].checked(step, trust) for step in steps]
    if key == "roi_size" and value is not None:
        sizes = list(value) if isinstance(value, (list, tuple)) else []
        known = len(sizes) in (2, 3) and all(fits(size, int) and 0 < size <= LARGEST for size in sizes)
        if not known or prod(sizes) > MOST:
            raise ValueError(
                f"`roi_size` is {repr(value)}, not two or three numbers of voxels. Use another checkpoint."
            )
        return sizes
    if key in CHECKS:
        return CHECKS[key](value, trust)
    if _describes(value):
        raise ValueError(f"`{key}` describes an object, which no file may give here. Use another checkpoint.")
    return value


def _describes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value.keys() & {"_target_", "class_path"}) or any(_describes(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_describes(item) for item in value)
