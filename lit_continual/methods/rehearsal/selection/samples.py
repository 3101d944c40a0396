"""What a selection policy may know about the samples it chooses from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from lit_continual.runs.checkpoints.registry import Registry


class Measurement:
    """A tensor that is measured when it is first asked for.

    Example:
        >>> ones = Measurement(lambda: torch.ones(2))
        >>> ones.value is None, ones(), ones.value
        (True, tensor([1., 1.]), tensor([1., 1.]))
    """

    def __init__(self, measure: Callable[[], Tensor]) -> None:
        self.measure = measure
        self.value: Tensor | None = None

    def __call__(self) -> Tensor:
        """Return the tensor."""
        if self.value is None:
            self.value = self.measure()
        return self.value


@dataclass(frozen=True)
class Samples:
    """The training set of one experience, slice by slice; each policy asks for what it needs.

    Args:
        contains: ``(n, J)``, bool: which of the classes are in the label of a sample.
        uncertainty: ``(n, J)``, low for certain. This and the features may be a :class:`Measurement`.
        features: ``(n, d)``.
        images: ``n`` of ``(C, H, W[, D])``, on any device: a tensor, or a sequence that need not be in memory.
        network: The network that has learnt from the samples, on the device of ``contains``.
        group: Processes that choose together, each with the same samples; they share the work.

    Example:
        >>> Samples(torch.tensor([[True, False], [True, True]])).members(1)
        tensor([1])
    """

    contains: Tensor
    uncertainty: Tensor | Measurement | None = None
    features: Tensor | Measurement | None = None
    images: Sequence[Tensor] | Tensor | None = None
    network: nn.Module | None = None
    group: ProcessGroup | None = None

    def __post_init__(self) -> None:
        if self.contains.ndim != 2:
            raise ValueError(f"`contains` must have shape (samples, classes), got {tuple(self.contains.shape)}.")
        for name in ("uncertainty", "features", "images"):
            value = getattr(self, name)
            if isinstance(value, Sequence | Tensor) and len(value) != len(self.contains):
                raise ValueError(f"`{name}` describes {len(value)} samples, and `contains` {len(self.contains)}.")

    def members(self, label: int) -> Tensor:
        """Return the samples that contain class ``label``, in ascending order."""
        return self.contains[:, label].nonzero().flatten()

    def given(self, name: str, who: object) -> Any:
        """Return the field ``name`` as it is, or raise if it was not given."""
        if (value := getattr(self, name)) is None:
            raise ValueError(
                f"`{type(who).__name__}` needs the `{name}` of the samples; compute it or choose `Random`."
            )
        return value

    def need(self, name: str, who: object) -> Tensor:
        """Return the field ``name`` as one tensor, measured if need be, or raise if it was not given."""
        value: Tensor | Sequence[Tensor] | Measurement = self.given(name, who)
        if isinstance(value, Measurement):
            return value()
        return value if isinstance(value, Tensor) else torch.stack([*value]).to(self.contains.device)


#: Policies by the names that configs use.
POLICIES = Registry("policy", lambda: object)


class Policy(Protocol):
    """Anything that orders samples by how much they are worth keeping: a function will do."""

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return at most ``budget`` indices, none twice; a smaller budget gives a prefix of a larger one."""
        ...


def union(orders: Sequence[Sequence[int]]) -> list[int]:
    """Merge orders, taking one from each in turn and none twice, so that every prefix serves all of them alike.

    Example:
        >>> union([[4, 7, 1], [7, 2]])
        [4, 7, 2, 1]
    """
    turns = (index for turn in zip_longest(*orders) for index in turn if index is not None)
    return list(dict.fromkeys(turns))


def of_class(samples: Samples, label: int) -> Samples:
    """Return the same samples with one class alone.

    Example:
        >>> of_class(Samples(torch.tensor([[True, False]])), 1).contains
        tensor([[False]])
    """
    whole = samples.uncertainty
    column = Measurement(lambda: samples.need("uncertainty", samples)[:, label : label + 1])
    uncertainty = None if whole is None else column
    return replace(samples, contains=samples.contains[:, label : label + 1], uncertainty=uncertainty)
