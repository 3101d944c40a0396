"""What a network answers, and which tensor of it are the logits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.methods.forward_calls import is_same, tensors
from lit_continual.runs.files import in_one_line

#: How to ask a network for its logits.
Ask = Callable[[nn.Module], Tensor]
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
                f"`forward` returns {type(output).__name__} of {shapes}, of which a method cannot tell the logits"
                f"{' that `training_step` returns' if other else ''}. {LOGITS}"
            )
        return cls(0, 1)

    def __call__(self, output: Any) -> Tensor:
        """Return the logits of another output."""
        parts = tensors(output)
        if len(parts) != self.count:
            raise ValueError(f"forward returns {len(parts)} tensors in evaluation mode and {self.count} in training")
        return parts[self.index]


def asked(network: nn.Module, ask: Ask, who: str) -> Tensor:
    """Ask a network for its logits.

    Raises:
        MisconfigurationException: If it cannot be asked so, or what it answers cannot be logits.
    """
    try:
        logits = ask(network)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if "out of memory" in str(error):
            raise
        raise MisconfigurationException(
            f"It was not possible to ask {who} for logits ({type(error).__name__}: {in_one_line(error)}). {LOGITS}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim < 2 or not logits.is_floating_point():
        found = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise MisconfigurationException(f"What {who} answers, {found}, cannot be logits. {LOGITS}")
    return logits


def require_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Raise ``MisconfigurationException`` unless two networks answer alike."""
    if student.shape != teacher.shape:
        raise MisconfigurationException(
            f"The network in training answers {tuple(student.shape)} and the old one {tuple(teacher.shape)}. {LOGITS}"
        )


def named_logits(outputs: Any) -> Tensor | None:
    """The logits that a step returns beside its loss."""
    named = outputs.get("logits") if isinstance(outputs, Mapping) else None
    return named if isinstance(named, Tensor) else None


def channels_of(pl_module: nn.Module, outputs: Any, output: Any = None) -> int | None:
    """How many channels a module has, by what it says, by what its step returns, or by what its forward does."""
    heads: Any = getattr(pl_module, "head_channels", None)
    if heads is not None:
        return sum(map(len, heads))
    logits = output if (named := named_logits(outputs)) is None else named
    return logits.shape[1] if isinstance(logits, Tensor) and logits.ndim > 1 else None


def origins(batch: Any) -> list[str]:
    """Where each sample of a batch comes from; none where it does not say."""
    return list(batch.get("origin") or ()) if isinstance(batch, Mapping) else []


def require_one_batch(pl_module: nn.Module, who: object) -> None:
    """Raise ``MisconfigurationException`` if the batches of a module are several, one for each task."""
    if getattr(pl_module, "trains_by_task", False):
        raise MisconfigurationException(
            f"`{type(who).__name__}` asks two networks about one image, and a batch of `{type(pl_module).__name__}` has"
            " one of every task. Use `L2SP`, a memory, or a `Segmenter` for each task."
        )


def of_images(batch: Any) -> Ask:
    """Ask a network about the images of a batch."""

    def ask(network: nn.Module) -> Tensor:
        images = batch["image"] if isinstance(batch, Mapping) else batch[0] if isinstance(batch, Sequence) else batch
        output = network(images)
        return Place.of(output, None)(output)

    return ask
