"""Which heads a segmenter has: as an argument, and in a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from lit_continual.segmentation.class_ratio_cross_entropy import ClassRatioCrossEntropy
from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.shared_head import SharedHead

#: How classes of different experiences relate, or the class names of each separate head to begin with.
Heads = Literal["separate", "shared"] | Sequence[Sequence[str]]


def make_heads(
    heads: Heads, classes: Sequence[Sequence[str]], features: int, spatial_dims: int, loss: nn.Module
) -> GrowingHeads | SharedHead:
    """Build the heads of a segmenter, for a loss.

    Raises:
        ValueError: If ``heads`` is another word, or both arguments name classes.
        MisconfigurationException: If the loss has weights for each head and the head is shared.
    """
    if isinstance(heads, str) and heads not in ("separate", "shared"):
        raise ValueError(f"`heads` must be 'separate', 'shared' or the class names of each head, got {heads!r}.")
    if heads == "shared" and isinstance(loss, ClassRatioCrossEntropy):
        raise MisconfigurationException(
            "`ClassRatioCrossEntropy` weighs the classes of a head by data that reveal all of them, which those of"
            " `heads: shared` do not. Use `heads: separate` or another loss."
        )
    if heads == "shared":
        return SharedHead(features, spatial_dims, classes)
    if classes and not isinstance(heads, str) and heads:
        raise ValueError(f"Name classes in `heads` or in `classes`, not in both: got {heads} and {classes}.")
    return GrowingHeads(features, spatial_dims, classes or ([] if isinstance(heads, str) else heads))


def described(heads: GrowingHeads | SharedHead) -> dict[str, Any]:
    """Return the arguments that make these heads, as plain data."""
    names = [list(group) for group in heads.classes]
    return {"heads": "shared", "classes": names} if isinstance(heads, SharedHead) else {"heads": names}


def classes_beyond(heads: GrowingHeads | SharedHead, known: Mapping[str, Any]) -> list[list[str]]:
    """Return the class names of each group that the heads of a checkpoint have beyond these.

    Raises:
        ValueError: If the checkpoint has others.
    """
    theirs, mine = known["heads"], heads.classes
    groups = known.get("classes") or [] if isinstance(theirs, str) else theirs
    if isinstance(heads, SharedHead) and not isinstance(theirs, str) and len(theirs) == 1:
        theirs = "shared"  # one separate head and the beginning of a shared one are the same layer
    if (theirs == "shared") != isinstance(heads, SharedHead):
        kinds = ("separate", "shared") if isinstance(heads, SharedHead) else ("shared", "separate")
        raise ValueError(f"The checkpoint has {kinds[0]} heads, the model {kinds[1]}. Set `heads: {kinds[0]}`.")
    if groups[: len(mine)] != mine:
        raise ValueError(
            f"The checkpoint has the heads {groups}, the model {mine}. Drop the class names to take the former."
        )
    return groups[len(mine) :]
