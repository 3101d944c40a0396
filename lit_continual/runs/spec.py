"""Objects from plain data: ``class_path`` and ``init_args`` in a config, ``_target_`` and its arguments in a file."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jsonargparse.typing import register_type

from lit_continual.runs.registry import construct, flat

#: Arguments by name; not ``Any``, of which a parser makes objects where it finds a ``class_path``.
Arguments = dict[str, bool | int | float | str | list | dict | None]  # type: ignore[type-arg]


class ObjectSpec(dict[str, Any]):
    """Type of an argument that says what to build; its values are plain dicts.

    A parser takes ``{"class_path": name, "init_args": {…}}``, or ``{"_target_": name, argument: value, …}`` as files
    have it, and gives ``{"class_path": name, argument: value, …}``. It has a type of its own because jsonargparse
    imports what ``class_path`` names in any other dict, and so refuses a bare name.
    """


#: The annotation of such an argument: where an option names a single argument, a parser takes the second type.
Spec: TypeAlias = ObjectSpec | Arguments | str


def build(spec: Mapping[str, Any] | str, packages: Sequence[str], **overrides: Any) -> Any:
    """Build the object that ``spec`` describes.

    Plain data, unlike objects, stands in a checkpoint that loads with ``weights_only=True`` and can be built again
    where no training config is at hand.

    Args:
        spec: ``{"class_path": name, "init_args": {…}}``, ``{"_target_": name, argument: value, …}``, or the name alone.
        packages: Where a name without a dot is looked up, in this order.
        overrides: Arguments that take the place of those in ``spec``.

    Raises:
        ValueError: If the name is not there or does not take the arguments.

    Example:
        >>> build({"class_path": "Linear", "init_args": {"in_features": 4, "out_features": 2}}, ["torch.nn"])
        Linear(in_features=4, out_features=2, bias=True)
    """
    arguments = flat(spec)
    name = arguments.pop("_target_")
    return construct(find(name, packages), {**arguments, **overrides}, name)


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
    raise ValueError(f"There is no `{name.rpartition('.')[2]}` in {', '.join(places)}. Correct the name `{name}`.")


def _parsed(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError("Expected `class_path` and `init_args`")
    arguments = flat(given)
    return {"class_path": arguments.pop("_target_"), **arguments}


def _is_parsed(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and "class_path" in value and not value.keys() & {"init_args", "_target_"}


def _dumped(parsed: Mapping[str, Any]) -> dict[str, Any]:
    arguments = flat(parsed)
    name = arguments.pop("_target_")
    return {"class_path": name, **({"init_args": arguments} if arguments else {})}


register_type(ObjectSpec, serializer=_dumped, deserializer=_parsed, type_check=_is_parsed)
