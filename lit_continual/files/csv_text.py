"""CSV that a spreadsheet shows as it stands: what it would take for a formula begins with an apostrophe."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

#: How a formula begins, also in full-width characters; and an apostrophe, so that reading gives back what was written.
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20']")

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    r"""Return a table as CSV, its names of columns and its text as a spreadsheet should show them.

    Example:
        >>> csv_text(["patient", "dice"], [["=1+1", -0.5]])
        "patient,dice\n'=1+1,-0.5\n"
    """
    return "".join(_line(row) for row in (list(columns), *rows))


def csv_rows(text: str) -> list[dict[str, str]]:
    r"""Return the lines of what :func:`csv_text` wrote, by column; the same text in all fields.

    Raises:
        ValueError: If it is no CSV, or a line has more or fewer fields than the first.

    Example:
        >>> csv_rows("patient,dice\n'=1+1,-0.5\n")
        [{'patient': '=1+1', 'dice': '-0.5'}]
    """
    try:
        lines = [[_plain(field) for field in line] for line in csv.reader(io.StringIO(text, newline="")) if line]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    columns, *rows = lines or [[]]
    if wrong := next((row for row in rows if len(row) != len(columns)), None):
        raise ValueError(f"a line with {len(wrong)} fields")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _line(fields: Iterable[Any]) -> str:
    buffer = io.StringIO(newline="")
    # Before Python 3.13, only the characters of the end of a line are quoted, and a lone CR ends a line for readers.
    csv.writer(buffer, lineterminator="\r\n").writerow([_guarded(f) if isinstance(f, str) else f for f in fields])
    return buffer.getvalue()[:-2] + "\n"


def _guarded(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _plain(field: str) -> str:
    return field[1:] if field[:1] == "'" and _FORMULA.match(field[1:]) else field
