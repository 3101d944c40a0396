"""From the first word of a command line to the command, which alone imports what it needs."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_continual import __version__
from lit_continual.cli.commands import COMMANDS
from lit_continual.cli.parser import Parser
from lit_continual.files.printing import printable, write_in_any_encoding
from lit_continual.files.whole_files import AGAIN, explaining, in_one_line, remedy
from lit_continual.stream import signals
from lit_continual.stream.section import reason

#: How to go on with a command that a signal has ended.
GO_ON = {"fit": "go on with --resume", "compare": "the same command goes on", "sweep": "the same command goes on"}
WORKER = "DataLoader worker"  # so torch begins what it says of a process that was ended while it loaded data
EXPECTED = {"ValueError", "OSError", "MisconfigurationException"}  # by name: the last is Lightning's, seconds to import


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line.

    Args:
        args: In place of ``sys.argv``; errors are raised then, and not printed.

    Returns:
        The ``ContinualCLI`` of ``fit``, ``validate`` and ``test``, for inspection.

    Raises:
        SystemExit: With 143, 130 or 129 if SIGTERM, Ctrl-C or SIGHUP has ended the command.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    advice = GO_ON.get(arguments[0] if arguments else "", "run the command again")
    if args is None:
        _open_streams()
    with signals.handled(advice, process_ends=args is None):
        try:
            return _run(arguments, args is not None)
        except BaseException as error:  # also what a signal's exception became on its way, such as exit code 1
            if not signals.received():
                raise
            signals.print_advice()
            raise SystemExit(signals.exit_code()) from (error if args is not None else None)


def _open_streams() -> None:
    """Give who has started this without an output, such as ``>&-``, one that goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    write_in_any_encoding(sys.stdout)  # that of errors escapes what it does not have


def _run(arguments: Sequence[str], raises: bool) -> Any:
    try:
        if arguments and arguments[0] in COMMANDS:
            with explaining("The folder in which this runs is gone", "Change to another one.", OSError):
                os.getcwd()  # without it torch ends the process
            return COMMANDS[arguments[0]](arguments[1:])
        return _overview().parse_args(arguments)
    except Exception as error:
        text = _explained(error)
        if signals.received() or raises or not text or os.environ.get("LIT_CONTINUAL_TRACEBACK"):
            raise
        sys.stderr.write(f"lit-continual: error: {printable(text)}\n")
        sys.exit(1)


def _overview() -> Parser:
    """The parser that knows the names of all commands, for help and for what is wrong with a first word."""
    parser = Parser(description="Continual learning for medical images, on PyTorch Lightning.")
    parser.add_argument("--version", action="version", version=f"lit-continual {__version__}")
    commands = parser.add_subcommands()
    for name, command in COMMANDS.items():
        commands.add_subcommand(name, Parser(description=command.__doc__), help=command.__doc__)
    return parser


def _explained(error: Exception) -> str:
    """What an error says to the user; nothing where the error is not the user's."""
    if isinstance(error, RuntimeError) and str(error).startswith(WORKER):
        what = "Most often memory is short: free some, or take fewer workers (`data.num_workers`)"
        return f"{in_one_line(error)}. {what}, {AGAIN}"
    if isinstance(error, RuntimeError) and "does not have a deterministic implementation" in str(error):
        return f"{in_one_line(error).partition(', but you set')[0]} here. Set `--trainer.deterministic warn`, {AGAIN}"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if not EXPECTED & kinds and raised_in.parts[-3:-1] != ("pytorch", "callbacks"):
        return ""
    if "jsonargparse" in raised_in.parts:  # wraps what a constructor says
        return reason(str(error)) + "."
    if isinstance(error, OSError) and remedy(error):  # where others write, such as a logger
        return f"{in_one_line(error)}. {remedy(error)}"
    if raised_in.is_relative_to(Path(__file__).parents[1]):
        return str(error)
    theirs = {"lightning", "pytorch_lightning"} & {*raised_in.parts}  # of a metric that nobody logs, or an interval
    return f"{in_one_line(error)}." if theirs and "OSError" not in kinds else ""
