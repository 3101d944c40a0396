"""Convolutions of small maps, which a CPU trains on garbage in bfloat16, in single precision."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

_CONVOLUTIONS = {torch.conv2d, torch.conv3d, torch.conv_transpose2d, torch.conv_transpose3d}


def small_maps_exactly(image: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Compute convolutions of small maps in single precision in a block, where bfloat16 would spoil their gradients.

    On CPUs with bfloat16 of their own, torch 2.13 (oneDNN) gives the weights of a convolution with a kernel of three
    over a map of two voxels along an axis, or of a strided one over one voxel, a gradient that holds memory which
    nobody has written. The answers stay in bfloat16.

    Args:
        image: What goes into the network. On another device than a CPU, in another precision and without gradients
            the block changes nothing.

    Example:
        >>> convolution = torch.nn.Conv3d(32, 32, 3, padding=1)
        >>> image = torch.ones(1, 32, 2, 2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), small_maps_exactly(image):
        ...     answer = convolution(image)
        >>> answer.dtype, bool((answer.float() - convolution(image)).abs().max() < 0.01)
        (torch.bfloat16, True)
    """
    is_concerned = image.device.type == "cpu" and torch.is_grad_enabled() and _precision(image) == torch.bfloat16
    return _SmallMapsExactly() if is_concerned else contextlib.nullcontext()


def _precision(tensor: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else tensor.dtype


class _SmallMapsExactly(TorchFunctionMode):
    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or len(args) < 2 or min(args[0].shape[2:]) > 2 or max(args[1].shape[2:]) < 3:
            return func(*args, **kwargs)
        precision = _precision(args[0])
        with torch.autocast("cpu", enabled=False):
            exact = [value.float() if isinstance(value, Tensor) else value for value in args]
            return func(*exact, **kwargs).to(precision)
