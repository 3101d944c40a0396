"""The settings of a run, held against those that it was begun with."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lit_continual.files.bounded_yaml import load_bounded, safe_load

SECTIONS = ("model", "data", "stream", "trainer")
#: What a run may go on with another value of: it changes what is written and printed, not what is learnt.
#: ``accelerator``, ``devices`` and ``strategy`` are not among them, as they change the last bits of the weights.
_FREE = re.compile(
    r"trainer\.(logger|default_root_dir|enable_progress_bar|enable_model_summary|enable_checkpointing"
    r"|log_every_n_steps|profiler)\b.*"
    r"|stream\.(name|pictures)"
    r"|(data|stream\.experiences\.\d+\.data)\..*\b(num_workers|persistent_workers|pin_memory|loading\..*|cache)"
)
#: Options that runs of earlier versions have not, and the value that did what these did.
_LATER = {"stream.evaluate": "test"}
_SHOWN = 6  # differences that an error names


def settings(config: str) -> dict[str, Any]:
    """Return what decides the results of a run, by its dotted name in a config.

    Raises:
        ValueError: If it is no YAML.

    Example:
        >>> settings("trainer: {max_epochs: 3, logger: false, callbacks: [{class_path: TGD, init_args: {phi: 0.4}}]}")
        {'trainer.max_epochs': 3, 'trainer.callbacks.0.class_path': 'TGD', 'trainer.callbacks.0.init_args.phi': 0.4}
    """
    try:
        sections = load_bounded(config, safe_load)
    except yaml.YAMLError as error:
        raise ValueError(f"The `config.yaml` of a run cannot be read as YAML ({error}). Restore it.") from error
    found = ((name, sections[name]) for name in SECTIONS if isinstance(sections, Mapping) and name in sections)
    named = (pair for section in found for pair in _flat(*section))
    return {n: value for n, value in named if not _FREE.fullmatch(n) and not (n in _LATER and value == _LATER[n])}


def digest(settings: Mapping[str, Any]) -> str:
    """Return what distinguishes settings, in 16 letters."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the settings that differ, with the old value and the new one; ``None`` where there is none.

    Example:
        >>> differences({"data.patch": [8, 8], "model.lr": 0.1}, {"data.patch": [8, 8], "model.lr": 0.2, "model.c": 1})
        {'model.lr': [0.1, 0.2], 'model.c': [None, 1]}
    """
    names = [*old, *(name for name in new if name not in old)]
    pairs = {name: [old.get(name), new.get(name)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def in_words(changes: Mapping[str, list[Any]]) -> str:
    """Say which settings differ, and how.

    Example:
        >>> in_words({"model.lr": [0.1, 0.2], "trainer.max_epochs": [3, 4]})
        'model.lr is 0.2 and was 0.1, trainer.max_epochs is 4 and was 3'
    """
    named = [f"{name} is {_short(new)} and was {_short(old)}" for name, (old, new) in changes.items()]
    more = [f"and {len(named) - _SHOWN} more"] if len(named) > _SHOWN else []
    return ", ".join([*named[:_SHOWN], *more])


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _flat(f"{name}.{number}", item)
    else:
        yield name, value
