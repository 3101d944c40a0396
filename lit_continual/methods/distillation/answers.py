"""What a network answers: which tensor of it are the logits, and whether they can be distilled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.methods.forward_calls import ForwardCall, is_same, tensors
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
                f"`forward` returns {type(output).__name__} of {shapes}, of which `Distillation` cannot tell the logits"
                f"{' that `training_step` returns' if other else ''}. {LOGITS}"
            )
        return cls(0, 1)

    def __call__(self, output: Any) -> Tensor:
        """Return the logits of another output."""
        parts = tensors(output)
        if len(parts) != self.count:
            raise ValueError(f"forward returns {len(parts)} tensors in evaluation mode and {self.count} in training")
        return parts[self.index]


def question(
    pl_module: nn.Module, batch: Any, outputs: Any, logits: Callable[..., Any] | None, call: ForwardCall | None
) -> tuple[Tensor, Ask, bool]:
    """Find the student's logits, how to ask the teacher what the student was asked, and whether it is of the images.

    Args:
        pl_module: The student.
        batch: The batch of this step.
        outputs: What the step returned.
        logits: The user's way to ask a network about a batch, if there is one.
        call: The call of ``forward`` that the loss came from, if there was one.

    Raises:
        MisconfigurationException: If the logits have no gradient, or cannot be had.
    """
    named = named_logits(outputs)
    if logits is not None:
        return logits(pl_module, batch), lambda network: logits(network, batch), False
    if call is not None:
        place = Place.of(call.output, named)
        return place(call.output), lambda network: place(network(*call.args, **call.kwargs)), False
    ask = of_images(batch)
    if named is not None and named.requires_grad:
        return named, ask, True
    if named is not None:
        raise MisconfigurationException(
            f"`training_step` returns logits without a gradient and does not call `forward`. {LOGITS}"
        )
    return asked(pl_module, ask, f"the `forward` of {type(pl_module).__name__}"), ask, True


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
            f"`Distillation` could not ask {who} ({type(error).__name__}: {in_one_line(error)}). {LOGITS}"
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


def require_one_batch(pl_module: nn.Module) -> None:
    """Raise ``MisconfigurationException`` if the batches of a module are several, one for each task."""
    if getattr(pl_module, "trains_by_task", False):
        raise MisconfigurationException(
            f"`Distillation` asks two networks about one image, and a batch of `{type(pl_module).__name__}` has one of"
            " every task. Use `L2SP`, a memory, or a `Segmenter` for each task."
        )


def of_images(batch: Any) -> Ask:
    """Ask a network about the images of a batch."""

    def ask(network: nn.Module) -> Tensor:
        images = batch["image"] if isinstance(batch, Mapping) else batch[0] if isinstance(batch, Sequence) else batch
        output = network(images)
        return Place.of(output, None)(output)

    return ask


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
            "One channel may be a sigmoid or a regression, which `Distillation` does not serve. If it is a sigmoid, set"
            " `heads='sigmoid'`."
        )
    if logits.ndim == 3 and guessed:
        raise MisconfigurationException(
            f"Logits of shape {tuple(logits.shape)} may be (B, C, L) or (B, tokens, C). If axis 1 has the classes, name"
            f" them in `heads`, such as [[0, 1, 2]]. Else: {LOGITS[0].lower()}{LOGITS[1:]}"
        )
    return [list(range(channels))]
