"""Trained models of other programs, which the one door opens like checkpoints, and which an export writes."""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lit_continual

if TYPE_CHECKING:
    from lit_continual.runs.checkpoints.checkpoint import Checkpoint


class Format(ABC):
    """A way in which others keep a trained model, which an export writes.

    Attributes:
        name: What ``--format`` calls it.
    """

    name: str

    @abstractmethod
    def write(self, opened: "Checkpoint", folder: Path, images: str | None) -> Sequence[str]:
        """Write the model of a checkpoint; return lines to print.

        Args:
            opened: The checkpoint.
            folder: An empty folder that takes its place when all of it is written.
            images: Images on which to compare what was written with the checkpoint, if the caller gives any.

        Raises:
            ValueError: If the format cannot hold the model.
        """


class ReadableFormat(Format):
    """A format of models that the one door opens too."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether a folder or file is a model of this format, by the names of its files; a path need not be there."""

    @abstractmethod
    def read(self, path: Path, trust: Collection[str]) -> dict[str, Any]:
        """Read a model as what a checkpoint of this package holds, without running any code from it.

        Args:
            path: What :meth:`recognises` has accepted.
            trust: Packages of the caller's own whose classes the model may name too.

        Returns:
            ``state_dict``, ``hyper_parameters``, ``lit_continual: {"module": name of its class}`` and, where images
            are brought to their grid by a ``Preprocessing``, ``datamodule_hyper_parameters: {"preprocessing": …}``.

        Raises:
            ValueError: If the model cannot be read, or is one that this package cannot extend.
        """


def formats() -> Sequence[Format]:
    """All formats, in the order in which they are asked."""
    found: Sequence[Format] = lit_continual.interop.FORMATS
    return found


def readable_formats() -> Sequence[ReadableFormat]:
    """The formats that can be opened."""
    return [one for one in formats() if isinstance(one, ReadableFormat)]


def format_of(path: str | os.PathLike[str]) -> ReadableFormat | None:
    """The format of a trained model of another program; ``None`` for all else."""
    return next((one for one in readable_formats() if one.recognises(Path(path))), None)
