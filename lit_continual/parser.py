"""A command-line parser that says what is wrong in one line, and objects from sections of its configs."""

import difflib
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override


class Parser(LightningArgumentParser):
    """A parser that says what is wrong in one line, not under a page of options, and takes no option by its beginning.

    A misspelt ``--trainer.max_epoch`` would else be ``--trainer.max_epochs``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"prog": "lit-continual", "allow_abbrev": False, **kwargs})

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        remedy = self._nearest(message) or "See `--help` for the options."
        sys.stderr.write(f"lit-continual: error: {reason(message)}. {remedy}\n")
        sys.exit(2)

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
