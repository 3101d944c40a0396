"""Building what a file describes, in no more memory and time than what it holds is worth."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: Functions of torch that allocate what layers are made of.
_MAKERS = {
    getattr(torch, name)
    for name in ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "zeros")
}
_OF_MEMORY = {"out", "generator", "pin_memory"}  # arguments that are none of the shape
TIMES, SLACK = 4, 20_000_000  # elements: of the weights in the file, and besides; networks make tables of their own
MAKINGS = 2_000  # tensors, besides some for each that is in the file


class BoundedBuilding(TorchFunctionMode):
    """Refuse to make tensors far beyond those that a file holds, before they take memory.

    A network is described by a few numbers, and a wrong or hostile one, such as a million channels, asks for more
    memory than there is. What is built from a file cannot be larger than the weights that it is to be given.

    Args:
        weights: The tensors in the file.

    Example:
        >>> with BoundedBuilding({"weight": torch.zeros(4)}):
        ...     torch.nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        RuntimeError: it describes a network of more than 20,000,016 numbers, and holds 4
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.held = sum(value.numel() for value in weights.values())
        self.left, self.makings = TIMES * self.held + SLACK, MAKINGS + TIMES * len(weights)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what is made, and then make it."""
        kwargs = kwargs or {}
        if func in _MAKERS and str(kwargs.get("device")) != "meta":
            shape = {name: value for name, value in kwargs.items() if name not in _OF_MEMORY}
            size = func(*args, **{**shape, "device": "meta"}).numel()
            self.left, self.makings = self.left - size, self.makings - 1
            if self.left < 0 or self.makings < 0:
                what = f"{TIMES * self.held + SLACK:,} numbers" if self.left < 0 else f"{MAKINGS:,} tensors"
                raise RuntimeError(f"it describes a network of more than {what}, and holds {self.held:,}")
        return func(*args, **kwargs)
