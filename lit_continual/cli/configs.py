"""Configs given one after another: what of them takes whose place.

A list of a later config or option takes the place of the one before. jsonargparse 4.53 does otherwise where both are
equally long, and lays each entry over its predecessor:

    >>> from lit_continual.runs.experience import Experience
    >>> parser = ArgumentParser()
    >>> action = parser.add_argument("--stream.experiences", type=list[Experience])
    >>> given = ['--stream.experiences=[{"name": "a", "max_epochs": 4}]', '--stream.experiences=[{"name": "b"}]']
    >>> [(one.name, one.max_epochs) for one in parser.parse_args(given).stream.experiences]
    [('b', 4)]

So :func:`parsed_anew` gives an empty list first. That is the one public way: ``set_parsing_settings`` has no switch for
it; a subclass of ``ActionConfigFile`` sees config files only, and an option such as ``--trainer.callbacks`` is laid
over the config's list before anybody is asked; ``parse_object`` takes the files merged by our own rule, but then knows
no more which options stood before and which behind them; and a tuple, whose entries are not laid over one another,
cannot be appended to by ``--trainer.callbacks+=``:

    >>> action = parser.add_argument("--fixed", type=tuple[int, ...] | list[int] | None)
    >>> parser.parse_args(["--fixed=[1]", "--fixed+=2"]).fixed
    [2]
"""

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type

from lit_continual.files.config_kind import read_config
from lit_continual.files.printing import printable
from lit_continual.files.whole_files import is_first_rank
from lit_continual.methods.rehearsal.exemplars import Exemplars
from lit_continual.stream.section import require_groups

#: Lists whose entries would else be laid over those before: the epochs of the first experience, or an argument of the
#: first callback, stayed where another stands now.
LISTS = ("stream.experiences", "trainer.callbacks")
CONFIG = ("--config", "-c")

# Numbers are a tensor where one is asked for: the weights of classes in a loss.
register_type(torch.Tensor, torch.Tensor.tolist, lambda numbers: torch.tensor(numbers, dtype=torch.float32))
register_type(torch.device, str, torch.device)


def parsed_anew(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse a command line on which experiences and callbacks that are given again inherit nothing from those before.

    Example:
        >>> from lit_continual.runs.experience import Experience
        >>> parser = ArgumentParser()
        >>> action = parser.add_argument("--stream.experiences", type=list[Experience])
        >>> given = ['--stream.experiences=[{"name": "a", "max_epochs": 4}]', '--stream.experiences=[{"name": "b"}]']
        >>> [(one.name, one.max_epochs) for one in parsed_anew(parser, given).stream.experiences]
        [('b', None)]
    """
    _require_values(arguments)
    with warnings.catch_warnings():  # of classes of other packages, which nobody has named
        warnings.filterwarnings("ignore", "(?s).*Hit failing import")
        parsed: Namespace = parser.parse_args([*_with_lists_anew(arguments)])
    for key in ("model", "data", "stream.memory"):
        if section := parsed.get(key):
            given = section.as_dict()
            kind = f"{Exemplars.__module__}.{Exemplars.__qualname__}"  # the one kind of memory, which may go unnamed
            memory = {"class_path": kind, "init_args": given}
            require_groups(given if "class_path" in given else memory, f"The section `{key}` is wrong")
    if not 0 <= parsed.get("seed_everything", 0) < 2**32:
        raise ValueError(f"`seed_everything` must be from 0 to 4294967295, got {parsed.seed_everything}.")
    if "stream" in parsed and parsed.stream.experiences is None:
        raise ValueError("`stream.experiences` is null. List what is learnt, or leave it out for one ordinary fit.")
    return parsed


def _require_values(arguments: Sequence[str]) -> None:
    """Refuse options that are typed with nothing behind them, as with a variable of the shell that is not set.

    The path "" would be that of the folder in which the command runs, or be taken for none at all.
    """
    for argument, following in pairwise([*arguments, None]):
        name, has_value, value = str(argument).partition("=")
        if name.startswith("-") and (value if has_value else following) == "":
            raise ValueError(f"`{name.strip('-')}` is empty. Give a value, or leave it out where it may be.")


def print_old_form(arguments: Sequence[str]) -> bool:
    """Print a line if an object is written with ``_target_``; return whether there is one."""
    place = next(_old_form(arguments), None)
    if place is not None and is_first_rank():
        sys.stderr.write(
            "lit-continual: `_target_` in a config is read for now; write `class_path` and `init_args` (first at"
            f" {printable(place)}).\n"
        )
    return place is not None


def _with_lists_anew(arguments: Sequence[str]) -> Iterator[str]:
    """Empty a list before each option and each config file that gives it."""
    for argument, name, value in _given(arguments):
        lists = [n for n in LISTS if isinstance(_at(value, n), list)] if name in CONFIG else [name.removeprefix("--")]
        yield from (f"--{name}=[]" for name in LISTS if name in lists)
        yield argument


def _old_form(arguments: Sequence[str]) -> Iterator[str]:
    """Where objects are written with ``_target_``."""
    for _, name, value in _given(arguments):
        if name in CONFIG:
            yield from _targets(value, ())
        elif name.startswith("--") and "_target_" in f"{name}{value}":
            yield name.removeprefix("--").removesuffix("._target_")


def _targets(section: Any, place: tuple[str, ...]) -> Iterator[str]:
    if isinstance(section, dict):
        if "_target_" in section:
            yield ".".join(place)
        for key, value in section.items():
            yield from _targets(value, place if key == "init_args" else (*place, str(key)))
    elif isinstance(section, list):
        for value in section:
            yield from _targets(value, place)


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Each argument, with the name of the option and its value; that of a config file is what it holds."""
    for argument, following in pairwise([*arguments, ""]):
        name, _, value = argument.partition("=")
        value = value or ("" if following.startswith("-") else following)
        yield argument, name, _sections(Path(value)) if name in CONFIG else value


def _sections(path: Path) -> dict[str, Any]:
    return read_config(path, "fit") if path.is_file() else {}  # the parser says what is wrong with something else


def _at(sections: Any, name: str) -> Any:
    for key in name.split("."):
        sections = sections.get(key) if isinstance(sections, dict) else None
    return sections


def merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``own`` over ``shared``; mappings are merged, except classes and objects, which are named in full.

    Example:
        >>> unet = {"class_path": "UNet", "init_args": {"norm": "BATCH"}, "act": "PRELU"}
        >>> merged({"network": unet}, {"network": {"init_args": {"act": "RELU"}}})
        {'network': {'class_path': 'UNet', 'init_args': {'norm': 'BATCH', 'act': 'RELU'}}}
    """
    nested = {
        key: merged(_in_full(shared[key], shared[key]), _in_full(value, shared[key]))
        for key, value in own.items()
        if isinstance(value, dict) and isinstance(shared.get(key), dict)
        if key != "classes" and not value.keys() & {"class_path", "_target_"}
    }
    return {**shared, **own, **nested}


def _in_full(section: Mapping[str, Any], of: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return arguments of the object that ``of`` describes with each in its place, none beside ``init_args``."""
    beside = ("class_path", "dict_kwargs") if "class_path" in of else ("_target_",)
    if not of.keys() & {"class_path", "_target_"}:
        return section
    kept = {key: value for key, value in section.items() if key in beside}
    arguments = {key: value for key, value in section.items() if key not in (*beside, "init_args")}
    arguments = {**(section.get("init_args") or {}), **arguments}
    return {**kept, "init_args": arguments} if "class_path" in of else {**kept, **arguments}


def without(config: Namespace, *keys: str) -> Namespace:
    """Return a config without some of its sections."""
    return Namespace(**{k: v for k, v in vars(config).items() if k not in keys})


def require_of_streams(config: Any) -> None:
    """Check that a fit of a stream has no option that only an ordinary fit knows, and none that fights another.

    Raises:
        ValueError: If it has one.
    """
    if config.trainer.fast_dev_run:
        raise ValueError(
            "A stream under `trainer.fast_dev_run` would leave a run of one batch that looks finished. Take"
            " --trainer.max_epochs=1 --trainer.limit_train_batches=1 and a folder of its own for a trial."
        )
    if config.get("ckpt_path"):
        raise ValueError("--ckpt_path is for an ordinary fit. Give --resume to go on, or `stream.start` to extend.")
    if config.get("overwrite") and (config.get("resume") or config.get("resume_with_changes")):
        raise ValueError("--resume goes on with the run that is there, and --overwrite removes it. Give one of them.")
