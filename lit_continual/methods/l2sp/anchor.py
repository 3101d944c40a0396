"""Anchors: which parameters are held, and where."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.methods.names import names_of_values, similar_names
from lit_continual.methods.weights import match_names, read_weights


def select_parameters(module: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the parameters of which a dotted name has a run of components that one of the glob ``patterns`` matches.

    Raises:
        MisconfigurationException: If a pattern matches nothing, or there is none.

    Example:
        >>> module = nn.ModuleDict({"encoder": nn.Linear(1, 1), "decoder": nn.Linear(1, 1)})
        >>> list(select_parameters(module, ["encoder", "*.bias"]))
        ['encoder.weight', 'encoder.bias', 'decoder.bias']
    """
    named = dict(module.named_parameters())
    names = {name: first for name, first in names_of_values(module).items() if first in named}
    matches = {p: {names[n] for n in names if fnmatchcase(f".{n}.", f"*.{p}.*")} for p in patterns}
    nothing = [pattern for pattern, found in matches.items() if not found]
    if nothing or not matches:
        modules = sorted({".".join(name.split(".")[:2]) for name in named})
        raise MisconfigurationException(
            f"`parameters={nothing}` matches no parameter of {type(module).__name__}: name a submodule or a parameter,"
            f" such as {', '.join(modules[:8])}, or a glob. The most like it at any depth are"
            f" {similar_names(''.join(nothing[:1]), names)}."
        )
    selected = set().union(*matches.values())
    return {name: p for name, p in named.items() if name in selected}


def normalisations(module: nn.Module, parameters: Iterable[str]) -> list[nn.Module]:
    """The batch normalisations with running statistics that own one of the named parameters."""
    owners = {name.rpartition(".")[0] for name in parameters}
    found = [layer for name, layer in module.named_modules() if name in owners]
    return [layer for layer in found if getattr(layer, "running_mean", None) is not None]


def snapshot(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return copies that training does not reach, unlike the tensors of a ``state_dict()``."""
    return {name: p.detach().clone() for name, p in parameters.items()}


def read_anchor(path: str, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under the names of ``parameters``; its names may have another prefix.

    Raises:
        ValueError: If the file is missing or unreadable, or lacks one of the parameters.
    """
    tensors = read_weights(path)
    sources = match_names(parameters, tensors)
    if absent := [name for name in parameters if name not in sources]:
        raise ValueError(
            f"The anchor file '{path}' is of another architecture: it lacks {len(absent)} of the {len(parameters)}"
            f" anchored parameters, such as `{absent[0]}`. Anchor to a checkpoint that has them, or narrow"
            " `parameters`."
        )
    try:
        return fit_anchor({name: tensors[source] for name, source in sources.items()}, parameters)
    except ValueError as error:
        raise ValueError(f"The anchor file '{path}' does not fit: {error}") from None


def fit_anchor(anchor: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return ``anchor`` on the device and in the dtype of the parameters, which may be more.

    Raises:
        ValueError: If an anchored parameter is gone or has another shape.
    """
    for name, tensor in anchor.items():
        if name not in parameters:
            raise ValueError(
                f"`{name}` has an anchor and is no longer among the selected parameters: select what the anchor was"
                " taken of."
            )
        if parameters[name].shape != tensor.shape:
            raise ValueError(
                f"`{name}` has shape {tuple(parameters[name].shape)}, and its anchor {tuple(tensor.shape)}: leave"
                " resized layers out of `parameters`, or put new classes in a parameter of their own."
            )
    return {name: tensor.to(parameters[name].device, parameters[name].dtype) for name, tensor in anchor.items()}


@torch.no_grad()
def layer_distances(parameters: Mapping[str, nn.Parameter], anchor: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the norm of parameter minus anchor for each layer, the module that holds the parameters.

    Example:
        >>> layer = nn.ModuleDict({"first": nn.Linear(1, 2)})
        >>> layer_distances(dict(layer.named_parameters()), snapshot(dict(layer.named_parameters())))
        {'first': tensor(0.)}
    """
    differences = torch._foreach_sub([parameters[name] for name in anchor], list(anchor.values()))
    layers = defaultdict(list)
    for name, distance in zip(anchor, torch._foreach_norm(differences), strict=True):
        layers[name.rpartition(".")[0]].append(distance)
    return {layer: torch.stack(distances).norm() for layer, distances in layers.items()}
