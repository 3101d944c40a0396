"""Which channels of a network are a softmax together."""

from collections.abc import Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.methods.answers import LOGITS


def heads_of(given: Any, network: nn.Module, logits: Tensor, guessed: bool) -> Sequence[Sequence[int]] | None:
    """Which channels each softmax has, or ``None`` for sigmoids: as given, as the network says, or all in one.

    Raises:
        MisconfigurationException: If nobody says and it is not clear.
    """
    channels = logits.shape[1]
    if given is not None:
        return None if isinstance(given, str) else given
    if (heads := getattr(network, "head_channels", None)) is not None:
        kept = ([c for c in head if c < channels] for head in heads)
        return [head for head in kept if head]
    if channels == 1:
        raise MisconfigurationException(
            "One channel may be a sigmoid or a regression, which `Distillation` does not serve. If it is a sigmoid, set"
            " `heads='sigmoid'`."
        )
    if logits.ndim == 3 and guessed:
        raise MisconfigurationException(
            f"Logits of shape {tuple(logits.shape)} may be (B, C, L) or (B, tokens, C). If axis 1 has the classes, name"
            f" them in `heads`, such as [[0, 1, 2]]. Else: {LOGITS[0].lower()}{LOGITS[1:]}"
        )
    return [list(range(channels))]
