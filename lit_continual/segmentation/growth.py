"""Growing a segmenter for the classes of a fit, and what copies the module before that."""

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


def grow_for(module: Any, data: Any) -> list[str]:
    """Add the classes of a data module to a segmenter, and return those that it did not know."""
    known = len(module.classes)
    for classes in getattr(data, "head_classes", [list(data.classes)]):
        module.grow(classes)
    found: list[str] = module.classes[known:]
    return found


def grow_in_setup(module: Any, data: Any) -> None:
    """Grow a segmenter when a fit is set up, which is after Lightning's averages have copied it.

    Raises:
        MisconfigurationException: If it grows and one has.
    """
    new, averages = grow_for(module, data), _averages(module.trainer)
    if new and averages:
        raise MisconfigurationException(
            f"`{averages}` has copied the module before it grew for {', '.join(new)}, so their weights would not be"
            f" averaged. Name the classes in the module's `heads`, or call `module.grow({new})` before the fit."
        )


class GrowBeforeAverages(Callback):
    """In a stream, let a module grow before callbacks that average its weights copy it; put it before them."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and _averages(trainer) and hasattr(pl_module, "grow") and hasattr(data, "classes"):
            grow_for(pl_module, data)


def _averages(trainer: Any) -> str:
    """The name of a callback that keeps an average of the weights from the start of a fit; nothing without one."""
    kinds = [type(callback) for callback in trainer.callbacks]
    return next((k.__name__ for k in kinds if any(b.__name__ == "WeightAveraging" for b in k.__mro__)), "")
