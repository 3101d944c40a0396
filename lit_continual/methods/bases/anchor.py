"""Anchors: which parameters are held, and where."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_continual.methods.bases.names import names_of_values, similar_names


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


def snapshot(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return copies that training does not reach, unlike the tensors of a ``state_dict()``."""
    return {name: p.detach().clone() for name, p in parameters.items()}


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


def matched(parameters: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of two mappings in one order.

    Raises:
        ValueError: If the names or the shapes differ, or there are none.
    """
    if parameters.keys() != anchor.keys() or not parameters:
        different = sorted(parameters.keys() ^ anchor.keys()) or ["nothing"]
        raise ValueError(
            f"`parameters` and `anchor` must hold the same names, at least one: {', '.join(different[:5])} is only in"
            " one of them or both are empty. Select the same parameters on both sides."
        )
    for name, value in parameters.items():
        if value.shape != anchor[name].shape:
            raise ValueError(
                f"`{name}` has shape {tuple(value.shape)}, and its anchor {tuple(anchor[name].shape)}: anchor only"
                " parameters that kept their shape."
            )
    return list(parameters.values()), [anchor[name] for name in parameters]
