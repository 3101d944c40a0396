"""Masks of many classes in little memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

BITS = 8


class Masks(Mapping[str, Tensor]):
    """The mask of each class, made when it is asked for, and each time anew.

    Args:
        names: The classes.
        make: Makes the mask of a class.

    Example:
        >>> masks = Masks(["lung", "tumour"], lambda name: torch.tensor([name == "lung"]))
        >>> list(masks), masks["lung"]
        (['lung', 'tumour'], tensor([True]))
    """

    def __init__(self, names: Sequence[str], make: Callable[[str], Tensor]) -> None:
        self.names, self.make = list(names), make

    @override
    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.make(name)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @override
    def __len__(self) -> int:
        return len(self.names)


def packed(masks: Tensor) -> Tensor:
    """Pack the masks ``(B, K, *spatial)`` of K classes into bytes, eight classes in each.

    Example:
        >>> packed(torch.tensor([[[True], [False], [True]]]))
        tensor([[[5]]], dtype=torch.uint8)
    """
    found = masks.new_zeros(len(masks), -(-masks.shape[1] // BITS), *masks.shape[2:], dtype=torch.uint8)
    for k in range(masks.shape[1]):
        found[:, k // BITS] |= masks[:, k].to(torch.uint8) << (k % BITS)
    return found


def unpacked(bits: Tensor, k: int) -> Tensor:
    """Return the mask ``(B, *spatial)`` of the class ``k`` of those that were :func:`packed`.

    Example:
        >>> [unpacked(torch.tensor([[5]], dtype=torch.uint8), k).item() for k in range(3)]
        [True, False, True]
    """
    return (bits[:, k // BITS] & (1 << (k % BITS))).bool()
