"""A command-line parser that says what is wrong in one line."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any, NoReturn, cast

from jsonargparse import ArgumentParser
from typing_extensions import override

import lit_continual
from lit_continual.files.bounded_yaml import MODE
from lit_continual.files.printing import printable
from lit_continual.methods.meta.old_config import how_to_convert
from lit_continual.stream.section import reason


class Parser(ArgumentParser):
    """A parser that says what is wrong in one line, not under a page of options, and takes no option by its beginning.

    A misspelt ``--trainer.max_epoch`` would else be ``--trainer.max_epochs``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"prog": "lit-continual", "allow_abbrev": False, "parser_mode": MODE, **kwargs})

    def parsed(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Parse a command line and return its arguments by name.

        Raises:
            ValueError: If one is empty, as of a variable of the shell that is not set: the path "" is that of the
                folder in which the command runs.
        """
        typed = [text.partition("=")[2] if text.startswith("--") else text for text in arguments]
        here = any(text and Path(text) == Path() for text in typed)  # ".", which is what "" becomes as a path
        parsed, usual = self.parse_args(list(arguments)), {action.dest: action.default for action in self._actions}
        for name, value in parsed.items():
            values = (value, *(value if isinstance(value, (list, tuple)) else ()))
            if ("" in values or (Path() in values and not here)) and value != usual.get(name):
                raise ValueError(
                    f"`{name.rpartition('.')[2]}` is empty. Give a value, or leave it out where it may be."
                )
        return dict(vars(parsed))

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        message = re.sub(r"(?<=arguments are required: ).*", lambda found: re.sub(r"\w+\.", "", found[0]), message)
        remedy = self.nearest(message) or "See `--help` for the options."
        sys.stderr.write(f"lit-continual: error: {printable(f'{reason(message)}. {remedy}')}\n")
        sys.exit(2)

    def nearest(self, message: str) -> str:
        """Name what is most like the option, command or class that a message says is not there."""
        if said := how_to_convert(message):
            return said
        if found := re.search("SequentialLR|ChainedScheduler|lr_lambda", message):
            return (
                f"`{found[0]}` takes what no config can hold. Write a function of your own, and name it by its import"
                " path: one of the optimizer as `scheduler`, or one of the epoch as `lr_lambda`."
            )
        parsers = [
            self,
            *(p for action in self._actions for p in (getattr(action, "_name_parser_map", None) or {}).values()),
        ]
        known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
        if found := re.search(r"unrecognized arguments: ([^\s=]+)", message):
            return _most_like(found[1], known)
        if found := re.search(r"Group '(.*)' does not accept option '(.*)'", message):
            return _most_like(f"--{found[1]}.{found[2]}", known)
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            return _most_like(found[1], re.findall(r"'(.*?)'", found[2]), 0.6)
        if found := re.search(r"(?s)Expected a typing.Literal\[(.*?)\].*Given value: (\S+)", message):
            return _most_like(found[2], re.findall(r"'(.*?)'", found[1]), 0.6)
        if found := re.search(r"class_path '([\w.]+)':\s*(?:- )?Option '(\w+)' is not accepted", message):
            kinds: Iterable[Any] = inspect.getmro(cast(type, locate(found[1])))  # one may hand `**kwargs` to the next
            return _most_like(found[2], {name for kind in kinds for name in inspect.signature(kind).parameters})
        if found := re.search(r"Expected a (?:dot import path string:|path but) (\w+)", message):
            if found[1].lower() == "none":
                return "Write `null` for none."
            if found[1] in lit_continual.__all__:  # where nobody knows of which kind it is to be
                return f"Write `{lit_continual.__name__}.{found[1]}` here."
            return _most_like(found[1], lit_continual.__all__)
        return ""


def _most_like(wrong: str, known: Iterable[str], cutoff: float = 0.8) -> str:
    near = difflib.get_close_matches(wrong, sorted(known), n=2, cutoff=cutoff)
    return f"Did you mean {' or '.join(near)}?" if near else ""
