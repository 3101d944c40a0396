"""Objects from the sections of a config."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from pydoc import locate
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from jsonargparse import ArgumentParser

from lit_continual.files.bounded_yaml import MODE

T = TypeVar("T")


def instantiate(kind: type[T], section: Any, place: str) -> T:
    """Make an object from a section of a config, with names and types checked.

    Args:
        kind: The class, or its base where the section has a ``class_path``.
        section: The arguments as plain data, or ``class_path`` and ``init_args``.
        place: Where they were found, for errors.

    A ``null`` in a section of plain data, where an argument cannot be ``None``, is as if it were left out.

    Raises:
        ValueError: If an argument is missing, unknown or of the wrong type.

    Example:
        >>> from dataclasses import make_dataclass
        >>> instantiate(make_dataclass("Point", [("x", int)]), {"y": 1}, "point.yaml")
        Traceback (most recent call last):
        ValueError: point.yaml: Option 'y' is not accepted.
    """
    if not isinstance(section, Mapping):
        raise ValueError(f"{place}: expected names and their values, got {section!r}.")
    parser = ArgumentParser(exit_on_error=False, parser_mode=MODE)
    try:
        if "class_path" in section:
            parser.add_subclass_arguments(kind, "object")
            parsed = parser.parse_object({"object": dict(section)})
        else:
            parser.add_class_arguments(kind)
            given = parser.parse_object(dict(section)).as_dict()
            hints = get_type_hints(kind)  # a null that jsonargparse takes for any default is none
            return kind(**{n: v for n, v in given.items() if v is not None or _may_be_null(hints.get(n, Any))})
    except Exception as error:
        raise ValueError(f"{place}: {reason(str(error))}.") from error
    require_groups(parsed.object.as_dict(), place)
    result: T = parser.instantiate_classes(parsed).object
    return result


def require_groups(section: Mapping[str, Any], place: str) -> None:
    """Check that each group of arguments of an object is one, since jsonargparse would unpack a number or a null too.

    Raises:
        ValueError: If one is not.
    """
    expected = inspect.signature(cast(type, locate(section["class_path"]))).parameters
    for name, value in (section.get("init_args") or {}).items():
        every = _kinds(expected[name].annotation) if name in expected else ()
        kinds, may_be_null = [kind for kind in every if kind is not NoneType], NoneType in every
        is_group = len(kinds) == 1 and is_dataclass(kinds[0])
        if is_group and not isinstance(value, (Mapping, kinds[0])) and not (value is None and may_be_null):
            given = "null" if value is None else repr(value)
            raise ValueError(
                f"{place}: `{name}` is {given}. Leave it out, or give those of its arguments that differ, of"
                f" {', '.join(inspect.signature(kinds[0]).parameters)}."
            )


def _may_be_null(annotation: Any) -> bool:
    return annotation is Any or NoneType in _kinds(annotation)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def reason(message: str) -> str:
    """Boil a report of jsonargparse down to what is wrong: the first of its tries at a value, followed inwards."""
    lines = [line for line in message.splitlines() if line.strip()]
    skipped = ("Does not validate", "Subtypes", "Errors", "Given value")
    kept, depth, opens = [], -1, True
    for line in lines:
        indent = len(line) - len(line.lstrip(" -"))
        if line.strip(" -").startswith(skipped):
            continue
        if indent <= depth and not opens:
            break  # the next try
        kept.append(line.strip(" -").rstrip(".:"))
        depth, opens = indent, line.endswith(":")
    said = ": ".join(kept)
    given = next((line.partition(":")[2].strip() for line in lines if line.strip().startswith("Given value:")), None)
    if given is not None and "Expected a" in said and "value" not in said:
        said += f", got {given!r:.100}"
    said = re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"Expected one of \1", said)
    said = re.sub(r'Parser key "([^"]*)"', r"`\1`", said)
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", said)
