"""Layers that answer in training as in evaluation."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


class EvaluatedLayers:
    """Layers that a fit keeps in evaluation mode; afterwards each has the mode that it had.

    Args:
        layers: The layers, in the modes to give back.

    Example:
        >>> norm = nn.BatchNorm2d(3)
        >>> held = EvaluatedLayers([norm])
        >>> held.evaluate()
        >>> norm.training
        False
        >>> held.release(training=True)
        >>> norm.training
        True
    """

    def __init__(self, layers: Iterable[nn.Module] = ()) -> None:
        self._modes = [(layer, layer.training) for layer in layers]

    def evaluate(self) -> None:
        """Put them in evaluation mode."""
        for layer, _ in self._modes:
            layer.eval()

    def release(self, training: bool) -> None:
        """Give their modes back, as far as the module that they are a part of is in training."""
        for layer, mode in self._modes:
            layer.train(mode and training)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode; afterwards, also after an exception, each part has the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
