"""YAML that says each thing once, and no more than a config needs: checked before anything is built from it."""

import re
from collections.abc import Callable
from enum import Enum
from typing import Any

import yaml
from jsonargparse import get_loader, set_dumper, set_loader

from lit_continual.files.printing import printable

MODE = "bounded_yaml"  # of a parser of jsonargparse
CHARACTERS, NODES, DEPTH = 2_000_000, 50_000, 50  # at most: of the text, and with each alias written out
LONGEST = 1000  # characters of a number

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LOAD: Callable[[str], Any] = get_loader("yaml")
_TEXT = "tag:yaml.org,2002:str"
_KINDS = yaml.resolver.Resolver()
_NAME = re.compile(r"[a-zA-Z_/][\w./-]{0,99}", re.ASCII)


class UnfitYaml(yaml.YAMLError):  # type: ignore[misc]  # yaml has no types here
    """A text that is YAML and no config: it repeats a key, or grows without measure."""


class _Open:
    """A list or mapping that is being read: how deep and large it is so far, and its keys."""

    def __init__(self, anchor: str | None, mapping: bool) -> None:
        self.anchor, self.mapping = anchor, mapping
        self.nodes, self.depth, self.count = 1, 1, 0
        self.keys: dict[tuple[str, str], int] = {}

    def take(self, nodes: int, depth: int) -> None:
        self.nodes, self.depth, self.count = self.nodes + nodes, max(self.depth, depth + 1), self.count + 1


def require_bounded(text: str) -> None:
    r"""Check a text before it is loaded, in time that grows with its length and not with what it would become.

    Raises:
        YAMLError: If it is no YAML, is too long, too deep or too large with its aliases written out, repeats a key, or
            holds itself.

    Example:
        >>> require_bounded("a: 1\nb: 2\na: 3")
        Traceback (most recent call last):
        lit_continual.files.bounded_yaml.UnfitYaml: the key `a` stands in line 1 and again in line 3
    """
    if len(text) > CHARACTERS:
        raise UnfitYaml(f"it has {len(text)} characters, and a config at most {CHARACTERS}")
    sizes: dict[str, tuple[int, int]] = {}  # of what anchors name
    within: list[_Open] = [_Open(None, False)]
    for event in yaml.parse(text, _PARSER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionStartEvent):
            within.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = within.pop()
            within[-1].take(done.nodes, done.depth)
            if done.anchor:
                sizes[done.anchor] = done.nodes, done.depth
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise UnfitYaml(f"`*{printable(event.anchor)}` in line {line} stands for nothing before it")
            within[-1].take(*sizes[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            kind = event.tag or _KINDS.resolve(yaml.ScalarNode, event.value, event.implicit)
            if kind != _TEXT and len(event.value) > LONGEST:
                raise UnfitYaml(f"line {line} has a number of {len(event.value)} characters, and {LONGEST} are enough")
            _require_new_key(within[-1], kind, event.value, line)
            within[-1].take(1, 0)
            if event.anchor:
                sizes[event.anchor] = 1, 0
        if len(within) > DEPTH or within[-1].depth > DEPTH or within[-1].nodes > NODES:
            raise UnfitYaml(f"up to line {line} it has more than {NODES} parts, or {DEPTH} in one another")


def _require_new_key(place: _Open, kind: str, value: str, line: int) -> None:
    if place.mapping and place.count % 2 == 0:  # else it is a value
        if first := place.keys.get((kind, value)):
            raise UnfitYaml(f"the key `{printable(value)[:100]}` stands in line {first} and again in line {line}")
        place.keys[kind, value] = line


def safe_load(text: str) -> Any:
    """Load a text as ``yaml.safe_load`` does, in a tenth of its time where libyaml is there."""
    return yaml.load(text, _PARSER)


def load_bounded(text: str, load: Callable[[str], Any] = _LOAD) -> Any:
    """Load a text, as jsonargparse does by default.

    Raises:
        UnfitYaml: As :func:`require_bounded`, and if it names other objects than plain ones; in one line.
    """
    if text == "None":  # which jsonargparse 4.53 makes of the null of `--data.preprocessing.orientation=null`
        return None
    try:
        if _NAME.fullmatch(text) and _KINDS.resolve(yaml.ScalarNode, text, (True, False)) == _TEXT:
            return text  # as most of what a parser asks about, a hundred times a command line
        require_bounded(text)
        return load(text)
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError) as error:  # the second for a date in month 13
        raise UnfitYaml(printable(" ".join(str(error).split()) or type(error).__name__)) from error


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types here
    """Of an enumeration it writes the value, such as that of the default ``interval`` of Lightning's ``Timer``."""


_Dumper.add_multi_representer(Enum, lambda dumper, one: dumper.represent_data(one.value))


def dump(content: Any) -> str:
    """Write plain values as jsonargparse does by default, and the values of enumerations."""
    text: str = yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text


set_loader(MODE, load_bounded, (yaml.YAMLError,))
set_dumper("yaml", dump)
