"""What layers of a network answer, and which of them end a level of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from typing_extensions import Self

from lit_continual.methods.bases.fit.hook_of_this_fit import HookOfThisFit
from lit_continual.methods.bases.names import similar_names
from lit_continual.segmentation.shared_head import SharedHead


class LayerOutputs:
    """Note what layers answer while a block runs, or from :meth:`note` on until :meth:`remove`.

    Of several calls of a layer the last counts. A copy of the network that is made meanwhile notes nothing.

    Args:
        network: The network.
        layers: Names of the layers.

    Raises:
        MisconfigurationException: If a layer is not there.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with LayerOutputs(network, ["0"]) as outputs:
        ...     _ = network(torch.ones(1, 2))
        >>> outputs.found["0"].shape
        torch.Size([1, 3])
    """

    def __init__(self, network: nn.Module, layers: Iterable[str]) -> None:
        self.found: dict[str, Tensor] = {}
        #: Whether outputs are noted.
        self.active = True
        known = dict(network.named_modules())
        if absent := [name for name in layers if name not in known]:
            raise MisconfigurationException(
                f"{type(network).__name__} has no layer `{absent[0]}`. The most like it are"
                f" {similar_names(absent[0], known)}."
            )
        self._hooks = [known[name].register_forward_hook(HookOfThisFit(self._note, name)) for name in layers]

    def _note(self, name: str, layer: nn.Module, args: Any, output: Any) -> None:
        if self.active and isinstance(output, Tensor):
            self.found.pop(name, None)  # so that the order is that of the last calls
            self.found[name] = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the hooks off the layers; what was noted is kept."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def candidate_layers(network: nn.Module) -> list[str]:
    """Return the layers whose outputs may be features: those that hold no other, draw nothing and are no shared head.

    Example:
        >>> candidate_layers(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout()))
        ['0']
    """
    parts = dict(network.named_modules())
    others = [f"{name}." for name, part in parts.items() if isinstance(part, SharedHead)]
    others += [f"{name}.parametrizations." for name in parts]  # which answer with weights
    return [
        name
        for name, part in parts.items()
        if name and not isinstance(part, _DropoutNd) and _holds_none(part) and not f"{name}.".startswith(tuple(others))
    ]


def _holds_none(part: nn.Module) -> bool:
    return all(name == "parametrizations" for name, _ in part.named_children())


def level_ends(outputs: Mapping[str, Tensor], logits: Tensor) -> list[str]:
    """Return, of layers in the order of their calls, the last ones before the size of the maps changes.

    Of a U-Net these are the ends of the levels of encoder and decoder. What has another number of axes than the logits
    is no map, and the logits themselves are no features.

    Example:
        >>> import torch
        >>> maps = {name: torch.zeros(1, 2, size, size) for name, size in (("a", 8), ("b", 8), ("c", 4), ("d", 8))}
        >>> level_ends(maps, torch.zeros(1, 3, 8, 8))
        ['b', 'c', 'd']
    """
    sizes = {n: out.shape[2:] for n, out in outputs.items() if out.ndim == logits.ndim and out is not logits}
    after = [*list(sizes.values())[1:], None]
    return [name for (name, size), then in zip(sizes.items(), after, strict=False) if size != then]
