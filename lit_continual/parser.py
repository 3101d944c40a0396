"""A command-line parser that says what is wrong in one line."""

import difflib
import sys
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
