"""Adapters on layers of a module, and the plain layers that they stand for."""

import copy
from collections import Counter
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.methods.bases.fit.forward_calls import plain
from lit_continual.methods.lora.low_rank_update import low_rank_update

NAME = "default"  # of an adapter, by which peft keeps its parts


def require_peft() -> None:
    """Raise ``MisconfigurationException`` if peft is not installed."""
    if find_spec("peft") is None:
        raise MisconfigurationException(
            "`LoRA` needs peft, which is not installed: run `pip install lit-continual[lora]`."
        )


def adaptable(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that peft can adapt and merge, by name: linear ones, and plain convolutions in 2D and 3D.

    Not those whose type is another, such as the projection of an attention, whose weight others read, nor those that
    share their weight with another layer; nor convolutions with groups, a dilation, or another padding than zeros,
    which peft's adapter does not follow.
    """
    found, holders = {}, Counter(id(p) for part in module.modules() for p in part._parameters.values())
    for name, layer in module.named_modules():
        convolution = type(layer) in (nn.Conv2d, nn.Conv3d)
        simple = convolution and layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"
        if name and (simple or type(layer) is nn.Linear) and holders[id(layer.weight)] == 1:
            found[name] = layer
    return found


class Adapters:
    """Low-rank adapters in the place of layers, until they are merged.

    A state dict of the module, a copy and a pickle of it hold plain layers with merged weights, and the module takes
    such a state dict.

    Args:
        module: What holds the layers, be it under several names.
        layers: Those to adapt by name, among those of :func:`adaptable`.
        rank: Of the adapters.
        alpha: Their scale, times the rank.
    """

    def __init__(self, module: nn.Module, layers: Mapping[str, nn.Module], rank: int, alpha: float) -> None:
        self.module, self.of = module, {name: _adapter(layer, rank, alpha) for name, layer in layers.items()}
        self._replace({id(layers[name]): adapter for name, adapter in self.of.items()})

    def _replace(self, others: Mapping[int, nn.Module]) -> None:
        for part in [*self.module.modules()]:
            for name, child in part._modules.items():
                if id(child) in others and part is not others[id(child)]:
                    part._modules[name] = others[id(child)]

    @torch.no_grad()
    def merge(self) -> None:
        """Put the layers back, with what their adapters have learnt."""
        layers = {}
        for adapter in self.of.values():
            layer = adapter.base_layer
            layer.weight.copy_(_merged(adapter))
            _give_back(adapter, layer)
            layers[id(adapter)] = layer.train(adapter.training)
        self._replace(layers)
        self.of = {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The weight of each layer and the parts of its adapter."""
        return {
            name: {part: value.detach() for part, value in _parts(adapter).items()} for name, adapter in self.of.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take what another process has left, bit for bit."""
        for name, parts in state.items():
            for part, value in _parts(self.of[name]).items():
                value.copy_(parts[part])


def _adapter(layer: nn.Module, rank: int, alpha: float) -> Any:
    peft: Any = import_module("peft")
    flags = {name: p.requires_grad for name, p in layer.named_parameters()}
    holder = nn.ModuleDict({"layer": layer})  # peft marks what it is given, which is not the user's module
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"]), holder)
    adapter: Any = holder["layer"].train(layer.training)
    adapter.flags = flags
    if not isinstance(layer, nn.Linear):
        adapter.forward = partial(_convolved, adapter)
    adapter.register_state_dict_post_hook(_as_plain)
    adapter.register_load_state_dict_pre_hook(_from_plain)
    adapter.__deepcopy__ = partial(_plain_copy, adapter)
    adapter.__reduce_ex__ = partial(_reduced, adapter)
    return adapter


def _parts(adapter: Any) -> dict[str, Tensor]:
    down, up = adapter.lora_A[NAME].weight, adapter.lora_B[NAME].weight
    return {"weight": adapter.base_layer.weight, "down": down, "up": up}


def _convolved(adapter: Any, image: Tensor) -> Tensor:
    """One convolution by the merged weight, in place of peft's three, of which two have few channels and are slow."""
    layer = adapter.base_layer
    with torch.autocast(image.device.type, enabled=False):  # the weight that is left when the fit ends
        weight = _merged(adapter)
    answer: Tensor = layer._conv_forward(image, weight, layer.bias)  # which also pads as the layer does
    return answer


def _merged(adapter: Any) -> Tensor:
    parts = _parts(adapter)
    update = low_rank_update(parts["down"], parts["up"], adapter.lora_alpha[NAME])
    weight: Tensor = parts["weight"] + update.to(parts["weight"].dtype)
    return weight


def _give_back(adapter: Any, layer: nn.Module) -> None:
    for name, p in layer.named_parameters():
        p.requires_grad_(adapter.flags[name])


def _as_plain(adapter: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    kept = {name: state.pop(key) for name in ("weight", "bias") if (key := f"{prefix}base_layer.{name}") in state}
    for key in [key for key in state if key.startswith(f"{prefix}lora_")]:
        del state[key]
    state.update({f"{prefix}{name}": value for name, value in {**kept, "weight": _merged(adapter).detach()}.items()})


def _from_plain(adapter: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in ("weight", "bias"):
        if (key := f"{prefix}{name}") in state:
            state[f"{prefix}base_layer.{name}"] = state.pop(key)
    for name, value in adapter.named_parameters():
        if name.startswith("lora_"):  # the weight has it all
            state.setdefault(f"{prefix}{name}", torch.zeros_like(value) if name.startswith("lora_B") else value)


def _plain_copy(adapter: Any, memo: dict[int, Any]) -> Any:
    layer = copy.deepcopy(adapter.base_layer, memo)
    layer.weight.data = _merged(adapter).detach()
    _give_back(adapter, layer)
    memo[id(adapter)] = layer
    return layer.train(adapter.training)


def _reduced(adapter: Any, protocol: Any) -> Any:
    return plain, (_plain_copy(adapter, {}),)
