"""A command-line parser that says what is wrong in one line, and objects from sections of its configs."""

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

T = TypeVar("T")

#: Lists that take the place of those before.
LISTS = ("stream.experiences", "trainer.callbacks")

#: Arguments by name; not ``Any``, of which a parser makes objects where it finds a ``class_path``.
Arguments = dict[str, bool | int | float | str | list | dict | None]  # type: ignore[type-arg]


class Parser(LightningArgumentParser):
    """A parser that says what is wrong in one line, not under a page of options, and takes no option by its beginning.

    A misspelt ``--trainer.max_epoch`` would else be ``--trainer.max_epochs``. Experiences and callbacks that are given
    again take the place of those before; jsonargparse would lay one list over another, so that the epochs of the first
    experience, or an argument of the first callback, stayed where another stands now.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"prog": "lit-continual", "allow_abbrev": False, **kwargs})

    @override
    def parse_args(  # type: ignore[override]  # as in jsonargparse
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        given = sys.argv[1:] if args is None else args
        parsed: Namespace = super().parse_args([*_with_lists_anew(given)], *rest, **kwargs)
        return parsed

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        remedy = self._nearest(message) or "See `--help` for the options."
        sys.stderr.write(f"lit-continual: error: {reason(message)}. {remedy}\n")
        sys.exit(2)

    def parse_for_another(self, arguments: Sequence[str]) -> Namespace:
        """Parse a command line that another process will run.

        Raises:
            ValueError: If an argument is unknown or of the wrong type.
        """
        self.exit_on_error = False
        try:
            parsed: Namespace = self.parse_args(list(arguments))
        except Exception as error:
            raise ValueError(f"{reason(str(error))}. {self._nearest(str(error))}".strip()) from error
        return parsed

    def _nearest(self, message: str) -> str:
        """Name the options most like one that does not exist."""
        _, unknown, wrong = message.partition("unrecognized arguments: ")
        parsers = [
            self,
            *(p for action in self._actions for p in (getattr(action, "_name_parser_map", None) or {}).values()),
        ]
        known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
        near = (
            difflib.get_close_matches(wrong.split("=")[0].split()[0], sorted(known), n=2, cutoff=0.8) if unknown else []
        )
        return f"Did you mean {' or '.join(near)}?" if near else ""


def _with_lists_anew(arguments: Sequence[str]) -> Iterator[str]:
    """Empty a list before each option and each config file that gives it."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = argument.partition("=")
        given = _lists_of(Path(value or following)) if name in ("--config", "-c") else [name.removeprefix("--")]
        yield from (f"--{name}=[]" for name in LISTS if name in given)
        yield argument


def _lists_of(path: Path) -> list[str]:
    """The lists that a config gives, other than as null."""
    try:
        sections = read_yaml(path)
    except ValueError:
        return []  # the parser says what is wrong with the file
    places = {name: name.split(".") for name in LISTS}
    return [name for name, (section, key) in places.items() if isinstance(_of(sections, section).get(key), list)]


def _of(sections: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = sections.get(name)
    return found if isinstance(found, dict) else {}


def reason(message: str) -> str:
    """Boil a report of jsonargparse down to what is wrong: the first of its tries at a value, followed inwards."""
    lines = [line for line in message.splitlines() if line.strip()]
    skipped = ("Does not validate", "Subtypes", "Errors", "Given value")
    kept, depth = [], -1
    for line in lines:
        indent = len(line) - len(line.lstrip(" -"))
        if indent > depth and not line.strip(" -").startswith(skipped):
            kept.append(line.strip(" -").rstrip(".:"))
            depth = indent
    return ": ".join(kept)


def merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``own`` over ``shared``; mappings are merged, except classes and objects, which are named in full."""
    nested = {
        key: merged(shared[key], value)
        for key, value in own.items()
        if isinstance(value, dict) and isinstance(shared.get(key), dict)
        if key != "classes" and not value.keys() & {"class_path", "_target_"}
    }
    return {**shared, **own, **nested}


def made(key: str, base: type, section: Mapping[str, Any], what: str) -> Any:
    """Make the object of a section.

    Args:
        key: Name of the section.
        base: What the object must be.
        section: ``class_path`` and ``init_args``.
        what: Subject of the error, with its verb.

    Raises:
        ValueError: If an argument is unknown or of the wrong type.
    """
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(base, key)
    try:
        parsed = parser.parse_object({key: dict(section)})
    except Exception as error:
        raise ValueError(f"The {what} wrong: {reason(str(error))}.") from error
    return parser.instantiate_classes(parsed)[key]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ValueError: If it is missing, not YAML, or something else.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path}. Check the path.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}). Correct it.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not names and their values. Correct it.")
    return found


def checked(kind: type[T], section: Any, place: str) -> T:
    """Make an object of a class from its arguments as plain data, with names and types checked.

    Args:
        kind: The class.
        section: Its arguments.
        place: Where they were found, for errors.

    Raises:
        ValueError: If one is missing, unknown or of the wrong type.

    Example:
        >>> from dataclasses import make_dataclass
        >>> checked(make_dataclass("Point", [("x", int)]), {"y": 1}, "point.yaml")
        Traceback (most recent call last):
        ValueError: point.yaml: Option 'y' is not accepted.
    """
    if not isinstance(section, dict):
        raise ValueError(f"{place}: expected names and their values, got {section!r}.")
    parser = Parser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        return kind(**parser.parse_object(section).as_dict())
    except Exception as error:
        raise ValueError(f"{place}: {reason(str(error))}.") from error
