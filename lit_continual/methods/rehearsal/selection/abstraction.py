"""Activations inside a network, by the name of the layer."""

from collections.abc import Sequence
from contextlib import ExitStack
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from lit_continual.methods.bases.fit.evaluated_layers import evaluating


@torch.no_grad()
def layer_activations(network: nn.Module, layers: Sequence[str], images: Tensor) -> list[Tensor]:
    """Run a network in evaluation mode and return what some of its layers put out.

    Args:
        network: Any network. Its modes are left as they were, and no hook stays on it, also after an exception.
        layers: Dotted names as in ``network.named_modules()``, such as ``"model.1.submodule.conv"``.
        images: ``(n, C, H, W[, D])``, on the device of the network.

    Returns:
        For each layer its output ``(n, C', *spatial)``; of its last call where it is called several times.

    Raises:
        ValueError: If there is no such layer, it is not called, or its output is not a tensor.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        >>> layer_activations(network, ["0"], torch.ones(2, 1, 8, 8))[0].shape
        torch.Size([2, 4, 6, 6])
    """
    modules = dict(network.named_modules())
    for name in layers:
        if name not in modules:
            near = get_close_matches(name, modules, n=3, cutoff=0) or ["none"]
            raise ValueError(f"`{type(network).__name__}` has no layer `{name}`; the nearest names are {near}.")
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(evaluating(network))
        for name in layers:
            # A copy, for an activation that follows may work in place.
            hook = modules[name].register_forward_hook(
                lambda module, args, output, name=name: found.update({name: _tensor(output, name).clone()})
            )
            stack.callback(hook.remove)
        network(images)
    for name in layers:
        if name not in found:
            raise ValueError(f"Layer `{name}` was not called by `{type(network).__name__}`; choose one that is.")
    return [found[name] for name in layers]


def abstraction(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    r"""Describe each image by the activations of one layer, averaged over space.

    .. math:: x_{i,c} = \frac{1}{|\Omega|} \sum_{p \in \Omega} R^{c}_p(I_i)

    Args:
        network: Any network, see :func:`layer_activations`.
        layer: Its abstraction layer: the second at the coarsest level of a U-Net.
        images: ``(n, C, H, W[, D])``, on the device of the network.

    Returns:
        ``(n, C')``.

    References:
        Ozdemir et al. Learn the New, Keep the Old. MICCAI 2018, fig. 1 and section 2.2.

    Example:
        >>> abstraction(nn.Sequential(nn.Identity()), "0", torch.ones(2, 3, 4, 4))
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    activations = layer_activations(network, [layer], images)[0]
    return activations.flatten(2).mean(2) if activations.ndim > 2 else activations


def _tensor(output: object, name: str) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(f"Layer `{name}` puts out a {type(output).__name__}, not a tensor; choose one inside it.")
    return output
