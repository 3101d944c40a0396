"""The anchor of L2-SP: how it is read from a file, and how far the parameters are from it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lit_continual.methods.bases.anchor import fit_anchor
from lit_continual.methods.bases.weights import match_names, read_weights
from lit_continual.runs.checkpoints.checkpoint import checked_weights


def normalisations(module: nn.Module, parameters: Iterable[str]) -> list[nn.Module]:
    """The batch normalisations with running statistics that own one of the named parameters."""
    owners = {name.rpartition(".")[0] for name in parameters}
    found = [layer for name, layer in module.named_modules() if name in owners]
    return [layer for layer in found if getattr(layer, "running_mean", None) is not None]


def read_anchor(path: str, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under the names of ``parameters``; its names may have another prefix.

    Raises:
        ValueError: If the file is missing or unreadable, lacks one of the parameters, or holds one that is not finite.
    """
    tensors = read_weights(path)
    sources = match_names(parameters, tensors)
    if absent := [name for name in parameters if name not in sources]:
        raise ValueError(
            f"The anchor file '{path}' is of another architecture: it lacks {len(absent)} of the {len(parameters)}"
            f" anchored parameters, such as `{absent[0]}`. Anchor to a checkpoint that has them, or narrow"
            " `parameters`."
        )
    checked_weights(path, {source: tensors[source] for source in sources.values()})
    try:
        return fit_anchor({name: tensors[source] for name, source in sources.items()}, parameters)
    except ValueError as error:
        raise ValueError(f"The anchor file '{path}' does not fit: {error}") from None


@torch.no_grad()
def layer_distances(parameters: Mapping[str, nn.Parameter], anchor: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the norm of parameter minus anchor for each layer, the module that holds the parameters.

    Example:
        >>> layer = nn.ModuleDict({"first": nn.Linear(1, 2)})
        >>> layer_distances(dict(layer.named_parameters()), dict(layer.named_parameters()))
        {'first': tensor(0.)}
    """
    differences = torch._foreach_sub([parameters[name] for name in anchor], list(anchor.values()))
    layers = defaultdict(list)
    for name, distance in zip(anchor, torch._foreach_norm(differences), strict=True):
        layers[name.rpartition(".")[0]].append(distance)
    return {layer: torch.stack(distances).norm() for layer, distances in layers.items()}
