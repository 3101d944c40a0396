"""Whether plain data from a file are of the types that they should be."""

from collections.abc import Mapping
from reprlib import repr
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

LARGEST = 2**63  # of a whole number


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type such as ``dict[str, int]`` or ``float | None``; no bool is a number.

    Example:
        >>> fits({"a": 1}, dict[str, int]), fits({"a": True}, dict[str, int]), fits(1, float), fits(None, float | None)
        (True, False, True, True)
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if kind in (None, NoneType):
        return value is None
    if isinstance(value, int) and kind in (int, float):
        return not isinstance(value, bool) and -LARGEST <= value < LARGEST
    return isinstance(value, kind)


def require_types(data: Any, kinds: Mapping[str, Any], required: bool = True) -> Mapping[str, Any]:
    """Check the values of a mapping, and return it.

    Args:
        data: The mapping.
        kinds: Type of each value by name; other names are not looked at.
        required: Whether all of the names must be there.

    Raises:
        ValueError: If something is missing or of another type.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a {type(data).__name__} in place of names and their values")
    for name, kind in kinds.items():
        if name not in data and required:
            raise ValueError(f"no {name!r}")
        if name in data and not fits(data[name], kind):
            raise ValueError(f"`{name}` is {repr(data[name])}")
    return data


def types_of(kind: type) -> dict[str, Any]:
    """The types of the fields of a dataclass, by name."""
    return get_type_hints(kind)
