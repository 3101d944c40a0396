"""Whether a teacher, which is in evaluation mode, answers the question that its student does."""

from collections.abc import Callable

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.methods.bases.old_network.logits import LOGITS


@torch.no_grad()
def require_same_in_evaluation(network: nn.Module, ask: Callable[[], Tensor], answer: Tensor) -> None:
    """Refuse a network whose forward returns something else in evaluation mode than in training.

    Layers that draw or keep statistics differ by their nature and stay in evaluation mode for the comparison; what
    answers twice in two ways draws elsewhere, and is let pass.

    Args:
        network: The teacher, in evaluation mode; left as it is.
        ask: Asks it.
        answer: What it has answered.

    Raises:
        MisconfigurationException: If the answers differ, or are probabilities.
    """
    if answer.shape[1] > 1 and bool((answer >= 0).all()) and _close(answer.sum(1), torch.ones_like(answer.sum(1))):
        raise MisconfigurationException(f"The teacher answers with probabilities, which are no logits. {LOGITS}")
    flags = {part: part.training for part in network.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    devices = [answer.device] if answer.is_cuda else []
    try:
        for part in flags:
            part.training = _decides(part)
        with torch.random.fork_rng(devices):
            first, second = ask(), ask()
    except Exception:  # its own forward in training may need what evaluation does not
        return
    finally:
        for part, training in flags.items():
            part.training = training
        for buffer, value in buffers:
            buffer.copy_(value)
    same = first.shape == answer.shape and _close(first, answer)
    if not same and first.shape == second.shape and _close(first, second):
        raise MisconfigurationException(
            f"The forward of {type(network).__name__} answers {tuple(answer.shape)} in evaluation mode, as the teacher"
            f" does, and otherwise {tuple(first.shape)} in training. {LOGITS}"
        )


def _decides(part: nn.Module) -> bool:
    """Whether a module may branch by its mode, and is no layer that draws or keeps statistics."""
    own = not type(part).__module__.startswith("torch.nn.")
    return own and next(part.children(), None) is not None


def _close(one: Tensor, other: Tensor) -> bool:
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
