"""What the arguments of a class may be where a file gives them: plain values, and none that would fill the memory."""

import inspect
import re
from collections.abc import Iterator, Mapping
from math import inf
from reprlib import repr
from typing import Any

#: Arguments by which a class fetches something or reads a file.
FETCHES = re.compile(r"pretrain|weights$|url|path|file|repo|checkpoint$|ckpt|output_dir|reader|writer")
#: In text, what a path, an address or the dotted name of something to import is made of.
LEADS_AWAY = re.compile(r"[./\\:$~]")
LONGEST = 200  # characters of a text, and entries of a list, in the arguments of a file
LARGEST = 2**24  # of a whole number there: a class may make a list, or a loop, as long


def require_plain(found: type, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a file, and defaults of a class, by which it would reach outside of itself.

    Raises:
        ValueError: If one reads, fetches or imports something, or is no plain value.
    """
    parameters = inspect.signature(found).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    for argument, value in {**defaults, **arguments}.items():
        fetches = FETCHES.search(argument) and value not in (None, False, "")
        if fetches or (argument in arguments and not _is_plain(value)):
            raise ValueError(
                f"`{argument}` of `{found.__name__}` in a file may not be {repr(value)}, by which a class"
                " reads, fetches or imports something. Build the network in Python and load the weights alone."
            )


def require_between(
    found: type, arguments: Mapping[str, Any], smallest: Mapping[str, float], largest: Mapping[str, float]
) -> None:
    """Refuse numbers by which a class would fill the memory.

    Args:
        found: The class.
        arguments: What a file gives it.
        smallest: Arguments -> the smallest size of a number in them that is not 0.
        largest: Arguments -> the largest size.

    Raises:
        ValueError: If a number lies outside.
    """
    for argument in arguments.keys() & (smallest.keys() | largest.keys()):
        value, low, high = arguments[argument], smallest.get(argument, 0), largest.get(argument, inf)
        if not all(low <= abs(number) <= high for number in numbers_in(value) if number != 0):
            bound = f"at least {low:g}" if argument in smallest else f"at most {high:g}"
            raise ValueError(
                f"`{argument}` of `{found.__name__}` is {repr(value)}, and in a file it is {bound}. Use another file,"
                f" or give --trust {found.__module__.partition('.')[0]} if you know this one."
            )


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers in plain data; a list may become as long as one of them."""
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        yield from numbers_in(part)
    if isinstance(value, (int, float)):
        yield value


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is a number, a short word, or a list or mapping of such."""
    if isinstance(value, str):
        return len(value) <= LONGEST and not LEADS_AWAY.search(value)
    if depth > 8:
        return False
    if isinstance(value, Mapping):
        keys = all(isinstance(key, str) and _is_plain(key) for key in value)
        return keys and not value.keys() & {"_target_", "class_path"} and _is_plain(list(value.values()), depth + 1)
    if isinstance(value, (list, tuple)):
        return len(value) <= LONGEST and all(_is_plain(item, depth + 1) for item in value)
    if isinstance(value, int):
        return abs(value) <= LARGEST
    return value is None or isinstance(value, float)
