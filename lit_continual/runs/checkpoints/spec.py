"""The type of an argument that describes an object: ``class_path`` and ``init_args`` in a config."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from jsonargparse.typing import register_type

from lit_continual.runs.checkpoints.registry import flat

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
