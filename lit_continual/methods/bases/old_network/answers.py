"""What a network answers, and which tensor of it are the logits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.files.whole_files import in_one_line
from lit_continual.methods.bases.old_network.logits import LOGITS, Place, named_logits

#: How to ask a network for its logits.
Ask = Callable[[nn.Module], Tensor]


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


def require_grown(student: Tensor, teacher: Tensor) -> None:
    """Raise ``ValueError`` unless the student has the channels of the teacher and maybe more, on one grid."""
    same = student.shape[:1] + student.shape[2:] == teacher.shape[:1] + teacher.shape[2:]
    if not same or student.shape[1] < teacher.shape[1]:
        raise ValueError(
            f"Logits of the network in training have shape {tuple(student.shape)}, those of the old network"
            f" {tuple(teacher.shape)}: the former need the channels of the latter first, on one grid."
        )


def channels_of(pl_module: nn.Module, outputs: Any, output: Any = None) -> int | None:
    """How many channels a module has, by what it says, by what its step returns, or by what its forward does."""
    heads: Any = getattr(pl_module, "head_channels", None)
    if heads is not None:
        return sum(map(len, heads))
    logits = output if (named := named_logits(outputs)) is None else named
    return logits.shape[1] if isinstance(logits, Tensor) and logits.ndim > 1 else None


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
