"""Learned rates of the inner loop, one per layer."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer


class InnerRates:
    """One learned inner rate for each layer that the inner loop moves.

    They are no part of the module: they stand in its optimizer for the length of a fit, and in the state of the
    callback.

    Args:
        inner_lr: Where all rates start. They may turn negative.

    References:
        Antoniou, Edwards and Storkey. How to Train Your MAML. ICLR 2019, section 4 (without rates per step).

    Example:
        >>> rates = InnerRates(inner_lr=0.5)
        >>> rates.grow(dict.fromkeys(["body.weight", "head.weight", "head.bias"], torch.zeros(1)))
        >>> rates.layers, rates.value.shape
        (['body', 'head'], torch.Size([2]))
    """

    def __init__(self, inner_lr: float) -> None:
        self.inner_lr, self.layers = inner_lr, list[str]()
        self.value = nn.Parameter(torch.empty(0))

    def grow(self, parameters: Mapping[str, Tensor]) -> None:
        """Give a rate to each layer that has none yet; the others keep theirs.

        Args:
            parameters: The adapted parameters by name. What stands before the last dot is the layer: a weight and its
                bias share a rate. The rates go to their device.
        """
        new = [layer for layer in _layers(parameters) if layer not in self.layers]
        like = next(iter(parameters.values())).detach()
        self.layers = [*self.layers, *new]
        with torch.inference_mode(False):
            start = torch.full((len(new),), self.inner_lr, dtype=like.dtype, device=like.device)
            self.value = nn.Parameter(torch.cat([self.value.detach().to(start), start]))

    def by_name(self, value: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the entry of ``value``, which stands in for the rates, of each parameter name.

        Raises:
            ValueError: If a parameter belongs to a layer that came after the fit was set up.
        """
        place = {layer: index for index, layer in enumerate(self.layers)}
        if unknown := sorted(_layers(names).keys() - place.keys()):
            raise ValueError(f"The layers {unknown} have no learned rate: let the module grow them in `setup`.")
        return {name: value[place[name.rpartition(".")[0]]] for name in names}

    def join(self, configured: Any, owner: str) -> Optimizer:
        """Add the rates to an optimizer, as a group of their own without weight decay, and return the optimizer.

        Raises:
            MisconfigurationException: If ``configured`` is not one optimizer: a schedule that was built on it would
                not know of the new group.
        """
        if not isinstance(configured, Optimizer):
            raise MisconfigurationException(
                f"`learn_inner_lr=True` adds the inner rates to the optimizer of {owner}, whose `configure_optimizers`"
                f" returned {type(configured).__name__}: return one optimizer without a schedule, or keep the rates"
                " fixed."
            )
        decay = {"weight_decay": 0.0} if "weight_decay" in configured.defaults else {}
        configured.add_param_group({"params": [self.value], **decay})
        return configured

    def state_dict(self) -> dict[str, Any]:
        """Return the layers and their rates."""
        return {"layers": list(self.layers), "value": self.value.detach().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the layers and rates of :meth:`state_dict`."""
        self.layers, self.value = list(state["layers"]), nn.Parameter(state["value"].clone())


def _layers(names: Iterable[str]) -> dict[str, None]:
    return dict.fromkeys(name.rpartition(".")[0] for name in names)
