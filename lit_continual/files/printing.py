"""What is printed: names from files are shown as they stand, and neither style nor steer a terminal."""

import codecs
import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from typing import Any

WIDTH, WIDEST = 160, 10_000  # characters of a line in a file or a pipe, and of the widest table
#: Control characters, ends of lines, halves of characters, and what turns the direction of writing.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
#: What stands for signs of ours where an encoding does not have them: without its minus a number is another.
OTHER_SIGNS = {"\N{MINUS SIGN}": "-", "\N{EM DASH}": "-", "\N{PLUS-MINUS SIGN}": "+-"}


def printable(text: object) -> str:
    r"""Return text in one line, in which characters that would act on a terminal stand as escapes.

    Example:
        >>> print(printable("red \x1b[31m\nand [/b]"))
        red \x1b[31m\nand [/b]
    """
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def write_in_any_encoding(stream: object) -> None:
    """Let a stream write what its encoding does not have, as that of a Windows pipe or of ``LC_ALL=C``, in other signs.

    Example:
        >>> with io.TextIOWrapper(io.BytesIO(), "ascii") as stream:
        ...     write_in_any_encoding(stream)
        ...     _ = stream.write("\u22120.3 \u00b1 0.1 \u2193")
        ...     stream.flush()
        ...     stream.buffer.getvalue()
        b'-0.3 +- 0.1 ?'
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        codecs.register_error(__name__, _in_other_signs)
        stream.reconfigure(errors=__name__)


def _in_other_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(OTHER_SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


@contextlib.contextmanager
def printable_errors() -> Iterator[None]:
    r"""Keep what a ``ValueError`` says to one line, :func:`printable`, where names from a file may be in it.

    Example:
        >>> with printable_errors():
        ...     raise ValueError("There is no patient \x1b[31m")
        Traceback (most recent call last):
        ValueError: There is no patient \x1b[31m
    """
    try:
        yield
    except ValueError as error:
        if (said := printable(error)) == str(error):
            raise
        raise ValueError(said) from error


def show(what: Any, soft_wrap: bool = True) -> None:
    """Print a line of text, or what ``rich`` draws; no markup is read in either, and :func:`printable` is all of it.

    Args:
        what: The text, or a table of ``rich``.
        soft_wrap: Leave it to the terminal to break long lines.
    """
    from rich.console import Console  # as long to import as a short command takes
    from rich.measure import Measurement

    width = min(shutil.get_terminal_size((WIDTH, 1)).columns or WIDTH, WIDEST)  # rich takes `COLUMNS=0` at its word
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    if not isinstance(what, str):  # a terminal breaks lines that are too long, and rich would cut numbers
        needed = Measurement.get(console, console.options.update(max_width=WIDEST), what).minimum
        console.width = max(console.width, needed)
    console.print(printable(what) if isinstance(what, str) else _Drawn(what), soft_wrap=soft_wrap)


class _Drawn:
    """What ``rich`` draws, with the text of all its parts made printable."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        for segment in console.render(self.what, options):
            lines = "\n".join(map(printable, segment.text.split("\n")))
            yield segment if segment.control else type(segment)(lines, segment.style)
