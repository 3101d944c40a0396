"""A command-line parser that says what is wrong in one line."""

import sys
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override


class Parser(LightningArgumentParser):
    """A parser that says what is wrong in one line, not under a page of options."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"lit-continual: error: {reason(message)}. See `--help` for the options.\n")
        sys.exit(2)


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
