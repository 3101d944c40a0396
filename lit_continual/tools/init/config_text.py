"""A config as text, with a comment above what needs a reason."""

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

import yaml

from lit_continual.files.printing import printable

WIDTH = 118


def config_text(config: Mapping[str, Any], comments: Mapping[str, str], head: str) -> str:
    r"""Write YAML; mappings under which there is a comment, and lists of mappings, take a line an entry.

    Args:
        config: Plain data.
        comments: What is said above an entry, by the dotted path of its keys.
        head: What is said above all, a line each.

    Example:
        >>> print(config_text({"a": {"b": [1, 2], "c": {"d": None}}}, {"a.b": "Why."}, "What."), end="")
        # What.
        a:
          # Why.
          b: [1, 2]
          c: {d: null}
    """
    return (
        "\n".join([*(f"# {printable(line)}".rstrip() for line in head.splitlines()), *_lines(config, comments)]) + "\n"
    )


def _lines(section: Mapping[str, Any], comments: Mapping[str, str], place: str = "", indent: str = "") -> Iterator[str]:
    for key, value in section.items():
        here = f"{place}{key}"
        yield from (f"{indent}# {line}" for line in wrap(printable(comments.get(here, "")), WIDTH - len(indent)))
        if isinstance(value, Mapping) and any(commented.startswith(f"{here}.") for commented in comments):
            yield f"{indent}{_flow(key)}:"
            yield from _lines(value, comments, f"{here}.", f"{indent}  ")
        elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            yield f"{indent}{_flow(key)}:"
            yield from (f"{indent}  - {_flow(part)}" for part in value)
        else:
            yield f"{indent}{_flow(key)}: {_flow(value)}"


def _flow(value: Any) -> str:
    """Write a value in one line, in which characters that would act on a terminal stand as escapes."""
    text = _dumped(value, allow_unicode=True)
    return text if text.isprintable() else _dumped(value, allow_unicode=False)


def _dumped(value: Any, allow_unicode: bool) -> str:
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=2**20, allow_unicode=allow_unicode
    )
    return text.removesuffix("\n").removesuffix("\n...")
