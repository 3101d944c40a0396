"""Objects from plain data, in the words of a Lightning config: ``class_path`` and ``init_args``."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any


def build(spec: Mapping[str, Any] | str, packages: Sequence[str], **overrides: Any) -> Any:
    """Build the object that ``spec`` describes.

    Plain data, unlike objects, stands in a checkpoint that loads with ``weights_only=True`` and can be built again
    where no training config is at hand.

    Args:
        spec: ``{"class_path": ..., "init_args": {...}}``, or the class path alone.
        packages: Where a class path without a dot is looked up, in this order.
        overrides: Arguments that take the place of those in ``init_args``.

    Raises:
        ValueError: If the class is not there or does not take the arguments.

    Example:
        >>> build({"class_path": "Linear", "init_args": {"in_features": 4, "out_features": 2}}, ["torch.nn"])
        Linear(in_features=4, out_features=2, bias=True)
    """
    spec = {"class_path": spec} if isinstance(spec, str) else spec
    if "class_path" not in spec or set(spec) - {"class_path", "init_args"}:
        raise ValueError(f"{dict(spec)} must have `class_path` and may have `init_args`, and nothing else.")
    path, arguments = spec["class_path"], {**(spec.get("init_args") or {}), **overrides}
    found = _find(path, packages)
    parameters = inspect.signature(found).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in arguments.keys() - parameters.keys():
            raise ValueError(f"`{path}` has no argument `{name}`. It takes {', '.join(parameters)}.")
    try:
        return found(**arguments)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"`{path}` cannot be built with {arguments} ({error}). Correct its `init_args`.") from error


def _find(path: str, packages: Sequence[str]) -> Any:
    places = [path.rpartition(".")[0]] if "." in path else packages
    name = path.rpartition(".")[2]
    for place in places:
        try:
            found = getattr(importlib.import_module(place), name, None)
        except ModuleNotFoundError:
            continue
        if callable(found):
            return found
    raise ValueError(f"There is no `{name}` in {', '.join(places)}. Correct `class_path: {path}`.")
