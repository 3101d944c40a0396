"""Classes by name: any for those who write a config, and a closed list for what a file names.

A checkpoint describes its network and its transforms as plain data. What it names is looked up here, among classes
that compute and do nothing else; a name that is not here is an error, and nothing is imported to find that out.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from reprlib import repr
from types import MappingProxyType
from typing import Any, TypeVar

import lit_continual
from lit_continual.files.printing import printable
from lit_continual.files.whole_files import in_one_line
from lit_continual.runs.checkpoints.arguments_of_files import LONGEST, require_between, require_plain
from lit_continual.runs.checkpoints.trust import trusted

C = TypeVar("C", bound=type)


class Registry:
    """The classes of one kind that a file may name, and where the names of a config are looked up.

    Args:
        kind: What they are, for errors, such as ``"network"``.
        base: Returns the class that all of them are made from.
        modules: Modules where a bare name of a config is looked up, such as ``"monai.networks.nets"``.
        allows: Whether a file may name a class of these modules. Classes that were added may be named by any file.
        largest: Arguments of these classes -> the largest number that a file may give there.
        smallest: Arguments -> the smallest number that is not 0.

    Example:
        >>> from torch import nn
        >>> layers = Registry("layer", lambda: nn.Module, ["torch.nn"], lambda found: found.__name__ == "Linear")
        >>> layers.build({"class_path": "Linear", "init_args": {"in_features": 4, "out_features": 2}})
        Linear(in_features=4, out_features=2, bias=True)
        >>> layers.checked({"_target_": "os.system", "command": "ls"})
        Traceback (most recent call last):
        ValueError: `os.system` is no layer that a file may name. Give --trust os if it is your own and the file too.
    """

    def __init__(
        self,
        kind: str,
        base: Callable[[], type],
        modules: Sequence[str] = (),
        allows: Callable[[type], bool] = lambda found: False,
        largest: Mapping[str, float] = MappingProxyType({}),
        smallest: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.kind, self.base, self.modules, self.allows = kind, base, tuple(modules), allows
        self.largest, self.smallest = largest, smallest
        self.own: dict[str, type] = {}
        self.of_configs: dict[str, type] = {}

    def add(self, found: C) -> C:
        """Let configs and files name a class of this package; a decorator."""
        self.own[found.__name__] = found
        return found

    def add_for_configs(self, found: C) -> C:
        """Let configs alone name a class of this package, such as one that fetches its weights; a decorator."""
        self.of_configs[found.__name__] = found
        return found

    def build(self, spec: Mapping[str, Any] | str, **overrides: Any) -> Any:
        """Build the object that a config describes; its author may name any class.

        Args:
            spec: ``{"class_path": name, "init_args": {…}}``, ``{"_target_": name, argument: value, …}``, or a name.
            overrides: Arguments that take the place of those in ``spec``.

        Raises:
            ValueError: If the name is not there or does not take the arguments.
        """
        arguments = flat(spec)
        name = arguments.pop("_target_")
        return construct(self.find(name), {**arguments, **overrides}, name)

    def find(self, name: str) -> Any:
        """Return the class or function that a config names.

        Raises:
            ValueError: If it is not there.
        """
        if (ours := {**self.own, **self.of_configs}.get(name)) is not None:
            return ours
        place, _, last = name.rpartition(".")
        for module in [place] if place else self.modules:
            try:
                found = getattr(importlib.import_module(module), last, None)
            except ModuleNotFoundError:
                continue
            if callable(found):
                return found
        places = place or ", ".join([*self.modules, "lit_continual"])
        raise ValueError(f"There is no `{last}` in {places}. Correct the {self.kind} `{name}`.")

    def remembered(self, spec: Any) -> dict[str, Any]:
        """Return what a checkpoint holds of a description: no file of weights, since it has the weights itself."""
        arguments = flat(spec)
        without_files = getattr(self.own.get(arguments["_target_"]), "without_files", dict)
        return {"_target_": arguments.pop("_target_"), **without_files(arguments)}

    def checked(self, spec: Any, trust: Collection[str] = ()) -> dict[str, Any]:
        """Return what a file describes as flat plain data that is safe to :meth:`build`.

        Args:
            spec: See :meth:`build`.
            trust: Packages of the caller's own whose classes the file may name too.

        Raises:
            ValueError: If it names something else than a class of this kind, or gives an argument by which a class
                reads, writes, fetches or imports.
        """
        try:
            arguments = flat(spec)
        except ValueError as error:
            raise ValueError(f"The file describes no {self.kind}: {error}") from error
        name, trust = arguments.pop("_target_"), (*trust, *trusted())
        if twice := sorted(arguments.keys() & {"class_path", "init_args", "dict_kwargs"}):
            raise ValueError(f"The file describes no {self.kind}: `{twice[0]}` stands in it twice. Use another file.")
        found = self.allowed(name, trust)
        if _package(found) not in trust:
            require_plain(found, arguments)
            require_between(found, arguments, self.smallest, self.largest)
        known = found.__name__ if _package(found) not in trust else f"{found.__module__}.{found.__qualname__}"
        return {"_target_": known, **arguments}

    def allowed(self, name: str, trust: Collection[str]) -> type:
        """Return the class that a file names; nothing is imported but MONAI and what the caller trusts."""
        place, _, last = name.rpartition(".")
        trust = (*trust, *trusted())
        found: Any = self._of_this_package(last)
        if found is not None and not _names("lit_continual", place):
            found = None
        elif found is None:
            modules = [importlib.import_module(module) for module in self.modules]
            candidates: list[Any] = [vars(module).get(last) for module in modules if _names(module.__name__, place)]
            found = next((c for c in candidates if self._is_kind(c) and self.allows(c)), None)
        if found is None and place.partition(".")[0] in trust:
            candidate: Any = _part_of(place, last)
            found = candidate if self._is_kind(candidate) and _package(candidate) in trust else None
        if found is None:
            top = place.partition(".")[0] or "PACKAGE"
            raise ValueError(
                f"`{printable(name[:LONGEST])}` is no {self.kind} that a file may name. Give --trust"
                f" {printable(top[:LONGEST])} if it is your own and the file too."
            )
        result: type = found
        return result

    def _of_this_package(self, name: str) -> type | None:
        """A class that was added, also by a public module that nobody has imported yet."""
        if name in lit_continual.__all__:
            getattr(lit_continual, name)
        return self.own.get(name)

    def _is_kind(self, found: Any) -> bool:
        return isinstance(found, type) and issubclass(found, self.base())


def flat(spec: Any) -> dict[str, Any]:
    """Return a description as ``{"_target_": name, argument: value, …}``, the form that checkpoints hold.

    What stands beside ``class_path`` is an argument too, so that ``--model.network.act RELU`` sets one.

    Raises:
        ValueError: If it does not say what to build.

    Example:
        >>> flat({"class_path": "UNet", "init_args": {"act": "PRELU"}, "norm": "BATCH"})
        {'_target_': 'UNet', 'act': 'PRELU', 'norm': 'BATCH'}
    """
    if not isinstance(spec, (str, Mapping)):
        raise ValueError(f"{repr(spec)} does not say what to build. Name a class under `class_path`.")
    arguments: dict[str, Any] = {"_target_": spec} if isinstance(spec, str) else dict(spec)
    if "class_path" in arguments:
        given = arguments.pop("init_args", None) or {}
        arguments = {"_target_": arguments.pop("class_path"), **given, **arguments}
    if "_target_" not in arguments:
        raise ValueError(f"{repr(arguments)} does not say what to build. Name a class under `class_path`.")
    if not isinstance(arguments["_target_"], str):
        raise ValueError(f"`class_path` must be a name, got {repr(arguments['_target_'])}. Name a class.")
    return arguments


def construct(found: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """Call ``found`` with ``arguments``; raise a ``ValueError`` if it does not take them."""
    parameters = inspect.signature(found).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for argument in arguments.keys() - parameters.keys():
            raise ValueError(f"`{name}` has no argument `{argument}`. It takes {', '.join(parameters)}.")
    try:
        return found(**arguments)
    except Exception as error:  # of anybody's class, over arguments of any type
        if isinstance(error, ValueError) and _package(found) == "lit_continual":
            raise
        said = f"`{name}` cannot be built from {printable(dict(arguments))[:1000]} ({in_one_line(error)})"
        raise ValueError(f"{said}. Correct its arguments.") from error


def _part_of(module: str, name: str) -> Any:
    """What a trusted package has under a name; nothing where it has no such module."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _package(found: type) -> str:
    return found.__module__.partition(".")[0]


def _names(module: str, place: str) -> bool:
    """Whether the dotted place of a name, which may be none, lies in a module or is one of its parents."""
    return not place or f"{place}.".startswith(f"{module}.") or f"{module}.".startswith(f"{place}.")
