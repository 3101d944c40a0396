"""Images that cannot be predicted among others that can."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_continual.stream.tracking import announce

SHOWN = 10  # of many


class Failures(Callback):
    """What is wrong with some images, which is said at once and again in the end, so that the others are predicted.

    Args:
        count: How many images there are; of a single one an error is raised as it is.
        known: Makes of a sentence one with the paths that somebody has given.
    """

    def __init__(self, count: int, known: Callable[[str], str] = str) -> None:
        self.count, self.known = count, known
        #: Name of the prediction that is not made -> why.
        self.found: dict[str, str] = {}

    @contextlib.contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Note a ``ValueError`` of the block, which is about the image of a name, and go on."""
        try:
            yield
        except ValueError as error:
            if self.count == 1:
                raise
            self.found[name] = self.known(str(error))
            if len(self.found) <= SHOWN:
                announce(self.found[name])

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.found)
            self.found = {name: reason for found in gathered for name, reason in found.items()}

    def require_none(self) -> None:
        """Raise a ``ValueError`` that names the images without a prediction, if there are some."""
        if not self.found:
            return
        names, more = list(self.found)[:SHOWN], len(self.found) - SHOWN
        raise ValueError(
            f"{len(self.found)} of {self.count} images have no prediction: {', '.join(names)}"
            f"{f' and {more} more' if more > 0 else ''}. {self.found[names[0]]} The same command goes on with what is"
            " missing."
        )
