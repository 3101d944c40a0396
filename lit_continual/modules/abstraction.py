"""What a layer inside a network makes of an image."""

from torch import Tensor, nn


def abstraction(body: nn.Module, image: Tensor, layer: str) -> Tensor:
    """Map images ``(B, C, *spatial)`` to the spatial mean of a layer's activations, ``(B, F)``.

    Args:
        body: The network.
        image: The images.
        layer: Dotted name of the layer, such as ``down_4`` of a ``BasicUNet``, its most abstract one.

    Raises:
        ValueError: If there is no such layer.

    Example:
        >>> import torch
        >>> body = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
        >>> abstraction(body, torch.zeros(2, 1, 8, 8), "0").shape
        torch.Size([2, 3])
    """
    layers, kept = dict(body.named_modules()), list[Tensor]()
    if not layer or layer not in layers:
        first = ", ".join(name for name, _ in body.named_children())
        raise ValueError(f"The network has no layer `{layer}`. Name one of {first}, or a layer inside one of them.")
    handle = layers[layer].register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        body(image)
    finally:
        handle.remove()
    return kept[-1].flatten(2).mean(2)
