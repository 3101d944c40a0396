"""Which part of what a module answers its logits are, and which of their channels belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_continual.methods.bases.fit.forward_calls import is_same, tensors

LOGITS = "Give `logits=`, a function of a module and a batch that returns logits (B, C, *spatial)."


@dataclass(frozen=True)
class Place:
    """Where in what a network returns its logits are: number ``index`` of ``count`` tensors."""

    index: int
    count: int

    @classmethod
    def of(cls, output: Any, named: Any) -> "Place":
        """Find the logits: what ``training_step`` names, the ``logits`` or ``out`` of the output, or its only tensor.

        Args:
            output: What ``forward`` returned.
            named: ``outputs["logits"]`` of the step, if there are any; it may be detached.

        Raises:
            MisconfigurationException: If that does not say which they are.
        """
        parts = tensors(output)
        keys = output if isinstance(output, Mapping) else vars(output) if hasattr(output, "__dict__") else {}
        own = (
            None if isinstance(output, Tensor) else keys.get("logits", keys.get("out", getattr(output, "logits", None)))
        )
        for wanted in (named, own):
            found = [i for i, part in enumerate(parts) if is_same(part, wanted)]
            if found:
                return cls(found[0], len(parts))
        other = isinstance(named, Tensor) and (
            named.ndim < 2 or any(part.shape[1:2] != named.shape[1:2] for part in parts)
        )
        if len(parts) != 1 or other:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts) or "no tensor"
            raise MisconfigurationException(
                f"`forward` returns {type(output).__name__} of {shapes}, of which one cannot tell the logits"
                f"{' that `training_step` returns' if other else ''}. {LOGITS}"
            )
        return cls(0, 1)

    def __call__(self, output: Any) -> Tensor:
        """Return the logits of another output."""
        parts = tensors(output)
        if len(parts) != self.count:
            raise ValueError(f"forward returns {len(parts)} tensors in evaluation mode and {self.count} in training")
        return parts[self.index]


def heads_of(given: Any, network: nn.Module, logits: Tensor, guessed: bool) -> Sequence[Sequence[int]] | None:
    """Which channels each softmax has, or ``None`` for sigmoids: as given, as the network says, or all in one.

    Raises:
        MisconfigurationException: If nobody says and it is not clear.
    """
    channels = logits.shape[1]
    if given is not None:
        return None if isinstance(given, str) else given
    if (heads := getattr(network, "head_channels", None)) is not None:
        return [head for head in heads if max(head) < channels]
    if channels == 1:
        raise MisconfigurationException(
            "One channel may be a sigmoid or a regression, which has no classes. If it is a sigmoid, set"
            " `heads='sigmoid'`."
        )
    if logits.ndim == 3 and guessed:
        raise MisconfigurationException(
            f"Logits of shape {tuple(logits.shape)} may be (B, C, L) or (B, tokens, C). If axis 1 has the classes, name"
            f" them in `heads`, such as [[0, 1, 2]]. Else: {LOGITS[0].lower()}{LOGITS[1:]}"
        )
    return [list(range(channels))]


def named_logits(outputs: Any) -> Tensor | None:
    """The logits that a step returns beside its loss."""
    named = outputs.get("logits") if isinstance(outputs, Mapping) else None
    return named if isinstance(named, Tensor) else None


def origins(batch: Any) -> list[str]:
    """Where each sample of a batch comes from; none where it does not say."""
    found = batch.get("origin") if isinstance(batch, Mapping) else None
    names = found if isinstance(found, (list, tuple)) else ()
    # Other people's images have an origin in mm.
    return list(names) if all(isinstance(name, str) for name in names) else []


def memory_of(trainer: Trainer) -> Any:
    """How the data of a fit keep exemplars, of which there may be none yet; ``None`` where they have no memory."""
    return getattr(getattr(trainer, "datamodule", None), "exemplars", None)
