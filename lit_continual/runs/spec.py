"""Objects from plain data, in the words of a MONAI bundle: ``_target_`` and its arguments."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any


def build(spec: Mapping[str, Any] | str, packages: Sequence[str], **overrides: Any) -> Any:
    """Build the object that ``spec`` describes.

    Plain data, unlike objects, stands in a checkpoint that loads with ``weights_only=True`` and can be built again
    where no training config is at hand.

    Args:
        spec: ``{"_target_": name, argument: value, …}``, or the name alone.
        packages: Where a name without a dot is looked up, in this order.
        overrides: Arguments that take the place of those in ``spec``.

    Raises:
        ValueError: If the name is not there or does not take the arguments.

    Example:
        >>> build({"_target_": "Linear", "in_features": 4, "out_features": 2}, ["torch.nn"])
        Linear(in_features=4, out_features=2, bias=True)
    """
    arguments: dict[str, Any] = {"_target_": spec} if isinstance(spec, str) else dict(spec)
    if "_target_" not in arguments:
        raise ValueError(f"{arguments} does not say what to build. Name a class under `_target_`.")
    name = arguments.pop("_target_")
    if not isinstance(name, str):
        raise ValueError(f"`_target_` must be a name, got {name!r}. Name a class.")
    found, arguments = find(name, packages), {**arguments, **overrides}
    parameters = inspect.signature(found).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for argument in arguments.keys() - parameters.keys():
            raise ValueError(f"`{name}` has no argument `{argument}`. It takes {', '.join(parameters)}.")
    try:
        return found(**arguments)
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"`{name}` cannot be built from {arguments} ({error}). Correct its arguments.") from error


def find(name: str, packages: Sequence[str]) -> Any:
    """Return the class or function of that name.

    Raises:
        ValueError: If it is not there.
    """
    places = [name.rpartition(".")[0]] if "." in name else packages
    for place in places:
        try:
            found = getattr(importlib.import_module(place), name.rpartition(".")[2], None)
        except ModuleNotFoundError:
            continue
        if callable(found):
            return found
    raise ValueError(f"There is no `{name.rpartition('.')[2]}` in {', '.join(places)}. Correct `_target_: {name}`.")
