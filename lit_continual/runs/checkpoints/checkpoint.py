"""The one door to checkpoints: what is in a file, checked before anything is built from it."""

import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lit_continual.files.printing import printable
from lit_continual.files.whole_files import in_one_line
from lit_continual.runs.checkpoints.bounded_building import BoundedBuilding
from lit_continual.runs.checkpoints.classes import MODULES
from lit_continual.runs.checkpoints.formats import format_of
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint
from lit_continual.runs.checkpoints.parameters import checked_parameter
from lit_continual.runs.checkpoints.seal import SECTION, digest
from lit_continual.runs.checkpoints.trust import trusting

M = TypeVar("M", bound=LightningModule)

#: Arguments of modules that are objects, which no file can hold.
_OBJECTS = {"loss", "optimizer", "scheduler"}
_PACKAGE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*|\$")  # a name of it, or what lets MONAI evaluate
#: What is raised over data of other types than a checkpoint's; a `RecursionError` is a `RuntimeError`.
_MALFORMED = (RuntimeError, KeyError, TypeError, AttributeError, IndexError, MemoryError, OverflowError)


class Checkpoint:
    """A checkpoint of this package's modules, or a trained model of another program, read once.

    Nothing in it decides which code runs: the module, its network and its transforms are looked up by name in
    :mod:`lit_continual.runs.checkpoints.classes`, and its weights are held against the checksum that was written with
    them.

    Args:
        path: The file, or what one of the formats in ``interop`` recognises, such as a folder of nnU-Net.
        trust: Packages of the caller's own whose classes the file may name too.

    Raises:
        ValueError: If the file cannot be read, or its weights or class names are not those that were written.
    """

    def __init__(self, path: str | os.PathLike[str], trust: Collection[str] = ()) -> None:
        self.path, self.trust = Path(path), [trust] if isinstance(trust, str) else list(trust)
        if unfit := [name for name in self.trust if not _PACKAGE.fullmatch(name)]:
            raise ValueError(f"`trust` has {unfit[0]!r}, which is no name of a package. Give one such as my_package.")
        other = format_of(path)
        self.content = load_checkpoint(path) if other is None else other.read(self.path, self.trust)
        written = self._section.get("sha256")
        if written is not None and written != self._digest():
            raise ValueError(
                f"{path} is damaged: its weights or class names are not those that were written. Restore it from a"
                " copy."
            )

    def _digest(self) -> str:
        try:
            return digest(self.content)
        except (*_MALFORMED, ValueError):  # of what no module writes
            return ""

    @property
    def _section(self) -> Mapping[str, Any]:
        found = self.content.get(SECTION)
        return found if isinstance(found, Mapping) else {}

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name.

        Raises:
            ValueError: If there are none, or some are nan or infinite.
        """
        state = self.content.get("state_dict")
        if not isinstance(state, Mapping) or not state:
            raise ValueError(f"{self.path} holds no `state_dict`. Use an experiences/*/model.ckpt of a run.")
        return checked_weights(self.path, state)

    @property
    def callbacks(self) -> dict[str, Any]:
        """What callbacks remember, by their state key."""
        found = self.content.get("callbacks")
        return dict(found) if isinstance(found, Mapping) else {}

    @cached_property
    def hyper_parameters(self) -> dict[str, Any]:
        """The arguments of the module, safe to build it from.

        Raises:
            ValueError: If they name what no file may name.
        """
        return self._checked(self.content.get("hyper_parameters"))

    @cached_property
    def preprocessing(self) -> dict[str, Any]:
        """The arguments of the ``Preprocessing`` that the module was trained with.

        Raises:
            ValueError: If there are none, or they name what no file may name.
        """
        data = self.content.get("datamodule_hyper_parameters")
        found = data.get("preprocessing") if isinstance(data, Mapping) else None
        if not isinstance(found, Mapping):
            raise ValueError(
                f"{self.path} does not say how images were preprocessed: it is no checkpoint of a fit with one of our"
                " data modules. Use an experiences/*/model.ckpt of a run."
            )
        return self._checked(found)

    def _checked(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            return {}
        found = {}
        for key, value in given.items():
            try:
                found[key] = checked_parameter(str(key), value, self.trust)
            except (*_MALFORMED, ValueError) as error:
                raise ValueError(f"{self.path}: {in_one_line(error)}.") from error
        return found

    def module(self, *kinds: type[M]) -> M:
        """Build the module with its weights, in eval mode.

        Args:
            kinds: Classes of which it must be one; by default any that a file may name.

        Raises:
            ValueError: If it is of another class, or the weights are not its own.
        """
        name = self._section.get("module")
        if isinstance(name, str):
            found = [MODULES.allowed(name, self.trust)]
        else:  # written before checkpoints said so
            known = self.hyper_parameters.keys() - {"_instantiator"}
            found = [k for k in MODULES.own.values() if known and known <= inspect.signature(k).parameters.keys()]
        wanted = kinds or tuple(MODULES.own.values())  # now with the one that the file has named
        mine = [kind for kind in found if issubclass(kind, wanted)]
        if not mine:
            names = " or ".join(kind.__name__ for kind in wanted)
            what = f" but of a {found[0].__name__}" if found else ""
            raise ValueError(
                f"{self.path} is no checkpoint of a {names}{what}. Use an experiences/*/model.ckpt of a run of one."
            )
        for kind in mine[:-1]:
            try:
                return self.build(kind)
            except ValueError:
                continue
        return self.build(mine[-1])

    def build(self, kind: type[M], strict: bool = True, **overrides: Any) -> M:
        """Build a module of a class that the caller names, with the weights of the file, in eval mode.

        Args:
            kind: The class.
            strict: Whether every weight of the module must be in the file, and no other.
            overrides: Arguments that take the place of those in the file.

        Raises:
            ValueError: If the weights are not those of the module that the file describes.
        """
        ours = issubclass(kind, tuple(MODULES.own.values()))  # a class of the caller's own reads its arguments itself
        known = self.hyper_parameters if ours else self.content.get("hyper_parameters", {})
        parameters = {k: v for k, v in known.items() if k != "_instantiator"}
        if objects := sorted(parameters.keys() & _OBJECTS if ours else ()):
            raise ValueError(
                f"{self.path}: `{objects[0]}` is an object, which no file may give. Use another checkpoint."
            )
        try:
            bounds = BoundedBuilding(self.state_dict) if kind in MODULES.own.values() else nullcontext()
            with self._named(), trusting(self.trust), bounds:
                with torch.random.fork_rng(devices=[]):  # its first weights are thrown away; draw nothing for them
                    module = kind(**{**parameters, **overrides})
                module.on_load_checkpoint(self.content)
            module.load_state_dict(self.state_dict, strict)
        except _MALFORMED as error:
            raise ValueError(
                f"The weights in {self.path} are not those of the {kind.__name__} that it describes"
                f" ({_reason(error)}). Use another checkpoint."
            ) from error
        return module.eval()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the file where an error about what it describes does not."""
        try:
            yield
        except ValueError as error:
            if str(self.path) in str(error):
                raise
            raise ValueError(f"{self.path}: {in_one_line(error)}.") from error

    def restore(self, module: LightningModule) -> None:
        """Give ``module`` the heads and weights of the checkpoint.

        Raises:
            ValueError: If the checkpoint is of another network.
        """
        try:
            with self._named(), trusting(self.trust), BoundedBuilding(self.state_dict):
                module.on_load_checkpoint(dict(self.content))
            module.load_state_dict(self.state_dict)
        except _MALFORMED as error:
            raise ValueError(
                f"{self.path} does not fit the model of this config ({_reason(error)}). Use the `model` section it was"
                " trained with."
            ) from error


def _reason(error: Exception) -> str:
    """Why weights are not taken: where torch says so in several lines, the first only says that they are not."""
    _, *lines = str(error).splitlines() or [""]
    return in_one_line(ValueError(lines[0]) if lines else error)


def is_finite(value: Any) -> bool:
    """Whether a value of a ``state_dict`` has no number that is nan or infinite, as far as torch can say."""
    asked = isinstance(value, Tensor) and value.is_floating_point() and value.element_size() > 1
    return not asked or bool(value.isfinite().all())


def checked_weights(path: str | os.PathLike[str], state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return weights of a file by name, of which a module can take each.

    Raises:
        ValueError: If they are something else, or some are nan or infinite.
    """
    for name, value in state.items():
        dense = isinstance(value, Tensor) and value.layout is torch.strided
        if not (isinstance(name, str) and dense) or value.is_quantized or value.is_meta:
            raise ValueError(f"{path} holds something else than tensors by name. Use another checkpoint.")
        if not is_finite(value):
            raise ValueError(f"`{printable(name)}` in {path} is nan or infinite. Use a checkpoint from before that.")
    return dict(state)
