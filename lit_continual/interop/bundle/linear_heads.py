"""Networks of MONAI whose last layer is a 1 x 1 convolution: what comes before it is a body, and it is a head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_continual.networks import NETWORKS

#: The last layer of each.
LAST = {
    "BasicUNet": "final_conv",
    "DynUNet": "output_block.conv.conv",
    "SegResNet": "conv_final.2.conv",
    "SwinUNETR": "out.conv.conv",
    "UNETR": "out.conv.conv",
}
#: Arguments that change nothing of what a network computes, or that MONAI takes no more.
_IDLE = {"SwinUNETR": ("img_size", "use_checkpoint"), "DynUNet": ("deep_supervision", "deep_supr_num")}
#: Layers that only the loss of a training sees, the first under a name of their own and the others under another.
SUPERVISED = "deep_supervision_heads"
_AUXILIARY = (f"{SUPERVISED}.", ".super_head.")


def last_layer(name: str) -> str:
    """The name of the last layer of a network of MONAI.

    Raises:
        ValueError: If it has none that is linear.
    """
    if name not in LAST:
        raise ValueError(
            f"A {name} has no 1 x 1 convolution as its last layer, so that no class can be added to it as a head; that"
            f" is so in {', '.join(sorted(LAST))}. Give a bundle of one of these."
        )
    return LAST[name]


def described(network: Mapping[str, Any]) -> dict[str, Any]:
    """What describes the body of a network: its description without the number of channels that come out."""
    idle = {"out_channels", *_IDLE.get(str(network["_target_"]), ())}
    return {key: value for key, value in network.items() if key not in idle}


def parted(weights: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Part the weights of a network into those of its body, and weight and bias of its last layer.

    The body ends in a last layer of its own, one that hands each feature on as it is, so that the network of a body is
    built like any other, and what it computes is unchanged to the last bit.

    Raises:
        ValueError: If there is no such layer in the weights.
    """
    last = last_layer(name)
    body = {k: v for k, v in weights.items() if not any(part in f".{k}" for part in _AUXILIARY)}
    weight, bias = body.get(f"{last}.weight"), body.get(f"{last}.bias")
    if not isinstance(weight, Tensor) or weight.ndim not in (4, 5) or weight.shape[2:].numel() != 1:
        raise ValueError(f"the last layer of a {name}, `{last}`, is not in them as a 1 x 1 convolution")
    bias = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias
    features = weight.shape[1]
    identity = torch.eye(features, dtype=weight.dtype).reshape(features, features, *weight.shape[2:])
    body |= {f"{last}.weight": identity, f"{last}.bias": torch.zeros(features, dtype=weight.dtype)}
    return body, weight, bias


def lower_layers(network: Mapping[str, Any], weights: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of the layers at lower resolutions of a ``DynUNet`` that has them, from the lowest resolution.

    Raises:
        ValueError: If one is missing.
    """
    if network["_target_"] != "DynUNet" or not network.get("deep_supervision"):
        return []
    names = [f"{SUPERVISED}.{i}.conv.conv" for i in reversed(range(int(network.get("deep_supr_num", 1))))]
    if missing := [name for name in names if f"{name}.weight" not in weights]:
        raise ValueError(f"the layer of deep supervision `{missing[0]}` is not in them")
    layers = [(weights[f"{name}.weight"], weights.get(f"{name}.bias")) for name in names]
    return [(weight, weight.new_zeros(len(weight)) if bias is None else bias) for weight, bias in layers]


def joined(body: Mapping[str, Tensor], name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return the weights of the network that a body and the layer behind it are together.

    Two linear layers are one: :math:`W (V x + b) + c = (W V) x + (W b + c)`, computed in double precision.

    Args:
        body: Weights of the body.
        name: Name of its network.
        weight: ``(C, F, 1, 1[, 1])`` of the layer behind it.
        bias: ``(C,)`` of that.
    """
    last = last_layer(name)
    inner, offset = body[f"{last}.weight"].double(), body[f"{last}.bias"].double()
    outer = weight.double().flatten(1)
    whole = (outer @ inner.flatten(1)).reshape(len(outer), inner.shape[1], *inner.shape[2:])
    shift = outer @ offset + bias.double()
    return {**body, f"{last}.weight": whole.to(weight.dtype), f"{last}.bias": shift.to(bias.dtype)}


def supervised(
    weights: Mapping[str, Tensor], network: Mapping[str, Any], layers: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Add to the weights of a ``DynUNet`` its layers at lower resolutions, under all the names that it has for them.

    Args:
        weights: Without these layers.
        network: Its description.
        layers: Weight and bias of each, from the lowest resolution.
    """
    found = {**weights}
    for i, layer in enumerate(reversed(layers)):
        found |= {
            f"{SUPERVISED}.{i}.conv.conv.{name}": value for name, value in zip(("weight", "bias"), layer, strict=True)
        }
    built = NETWORKS.build(dict(network))
    built.load_state_dict(found, strict=False)
    return dict(built.state_dict())
