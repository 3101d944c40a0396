"""Modules with one softmax over background, old and new classes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.segmentation.shared_head import SharedHead

#: Of a module and a batch: the channel that each voxel belongs to, ``(B, *spatial)``.
Target = Callable[[nn.Module, Any], Tensor]


def require_one_softmax(pl_module: nn.Module, who: object) -> None:
    """Raise ``MisconfigurationException`` if a module has a background for each group of classes."""
    if isinstance(getattr(pl_module, "heads", None), GrowingHeads):
        raise MisconfigurationException(
            f"`{type(who).__name__}` is defined on one softmax, whose background may hold other classes, and the heads"
            f" of `{type(pl_module).__name__}` have a background each. Set `heads: shared` in a `Segmenter`."
        )


def shared_head(pl_module: nn.Module) -> tuple[Segmenter, SharedHead] | None:
    """Return a module and its head if it is a ``Segmenter`` with a shared one, which knows its labels itself."""
    if isinstance(pl_module, Segmenter) and isinstance(pl_module.heads, SharedHead):
        return pl_module, pl_module.heads
    return None


def target_of(given: Target | None, pl_module: nn.Module, batch: Any, logits: Tensor) -> Tensor:
    """Return the channel of each voxel, ``(B, *spatial)``: as given, or the ``label`` or second part of the batch.

    Raises:
        MisconfigurationException: If the batch has no such part, or it is of another shape or no integers.
    """
    target: Any = None
    if given is not None:
        target = given(pl_module, batch)
    elif isinstance(batch, Mapping):
        target = batch.get("label")
    elif isinstance(batch, Sequence) and len(batch) > 1:
        target = batch[1]
    shape = logits.shape[:1] + logits.shape[2:]
    if isinstance(target, Tensor) and target.ndim == logits.ndim and target.shape[1] == 1:
        target = target[:, 0]
    if not isinstance(target, Tensor) or target.shape != shape or target.is_floating_point():
        found = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise MisconfigurationException(
            f"The channel of each voxel is wanted as integers {tuple(shape)}, and the batch has {found}. Give"
            " `target=`, a function of a module and a batch that returns it."
        )
    return target.long()
