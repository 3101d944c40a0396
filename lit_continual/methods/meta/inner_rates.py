"""Learned rates of the inner loop, one per layer."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer


class InnerRates(nn.Module):
    """One learned inner rate for each layer that the inner loop moves.

    Args:
        names: Names of the adapted parameters. What stands before the last dot is the layer: a weight and its bias
            share a rate.
        inner_lr: Where all rates start. They may turn negative.

    References:
        Antoniou, Edwards and Storkey. How to Train Your MAML. ICLR 2019, section 4 (without rates per step).

    Example:
        >>> rates = InnerRates(["body.weight", "head.weight", "head.bias"], inner_lr=0.5)
        >>> rates.layers, rates.value.shape
        (['body', 'head'], torch.Size([2]))
    """

    def __init__(self, names: Iterable[str], inner_lr: float) -> None:
        super().__init__()
        self.inner_lr, self.layers = inner_lr, list[str]()
        self.value = nn.Parameter(torch.empty(0))
        self.grow(names)

    def grow(self, names: Iterable[str]) -> None:
        """Give a rate to each layer that has none yet; the others keep theirs."""
        layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
        if new := [layer for layer in layers if layer not in self.layers]:
            self.layers += new
            start = self.value.new_full((len(new),), self.inner_lr)
            self.value = nn.Parameter(torch.cat([self.value.detach(), start]))

    def by_name(self, value: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the entry of ``value``, which stands in for the rates, of each parameter name.

        Raises:
            ValueError: If a parameter belongs to a layer that came after the fit was set up.
        """
        place = {layer: index for index, layer in enumerate(self.layers)}
        layers = {name: name.rpartition(".")[0] for name in names}
        if unknown := sorted(set(layers.values()) - set(place)):
            raise ValueError(f"The layers {unknown} have no learned rate: let the module grow them in `setup`.")
        return {name: value[place[layer]] for name, layer in layers.items()}

    def join(self, configured: Any, owner: str) -> Optimizer:
        """Add the rates to an optimizer, as a group of their own without weight decay, and return the optimizer.

        Raises:
            MisconfigurationException: If ``configured`` is not one optimizer: a schedule that was built on it would
                not know of the new group.
        """
        if not isinstance(configured, Optimizer):
            raise MisconfigurationException(
                f"`learn_inner_lr=True` adds the inner rates to the optimizer of {owner}, whose `configure_optimizers`"
                f" returned {type(configured).__name__}: return one optimizer, or override `configure_optimizers` of"
                " `MetaTune`, whose `parameters()` hold the rates."
            )
        decay = {"weight_decay": 0.0} if "weight_decay" in configured.defaults else {}
        configured.add_param_group({"params": [self.value], **decay})
        return configured
