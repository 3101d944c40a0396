"""A number that a process sets and its worker processes see."""

from mmap import mmap
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class SharedEpoch:
    """The epoch that a data set is in, also for worker processes that were started in an earlier one.

    Forked processes share its memory. Where workers are spawned, torch moves a tensor that is sent to them into memory
    that both sides share. Any other copy is a number of its own.

    Example:
        >>> epoch = SharedEpoch()
        >>> epoch.value = 3
        >>> epoch.value
        3
    """

    def __init__(self, number: Tensor | None = None) -> None:
        if number is not None and number.is_shared():
            self._number = number
        else:
            self._number = torch.frombuffer(mmap(-1, 8), dtype=torch.int64)  # an anonymous map, which a fork shares
            self.value = 0 if number is None else int(number)

    @property
    def value(self) -> int:
        """The epoch."""
        return int(self._number)

    @value.setter
    def value(self, epoch: int) -> None:
        self._number.fill_(epoch)

    @override
    def __reduce__(self) -> Any:
        return SharedEpoch, (self._number,)
