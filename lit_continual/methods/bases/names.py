"""Names of what a module holds: a thing may have several, and a user may miss all of them."""

from collections.abc import Iterable
from difflib import SequenceMatcher

from torch import Tensor, nn


def names_of_values(module: nn.Module) -> dict[str, str]:
    """Map every dotted name of a parameter or buffer to the first one, under which it is listed.

    Example:
        >>> net = nn.ModuleDict({"encoder": nn.Linear(1, 1, bias=False)})
        >>> net["backbone"] = net["encoder"]
        >>> names_of_values(net)
        {'encoder.weight': 'encoder.weight', 'backbone.weight': 'encoder.weight'}
    """
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    return {name: first.setdefault(id(value), name) for name, value in named}


def places_of_values(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers by one dotted name for each attribute of each module that holds one.

    So a tensor that stands in two modules has two names, and one in a module with two names has one: what
    ``torch.func.functional_call`` must replace, each once, with ``tie_weights=False``.
    """
    return {
        f"{path}.{name}".lstrip("."): value
        for path, part in module.named_modules()
        for name, value in {**part._parameters, **part._buffers}.items()
        if value is not None
    }


def lies_in(name: str, part: str) -> bool:
    """Whether a dotted name is that of ``part`` or of something in it.

    Example:
        >>> lies_in("blocks.1.weight", "blocks.1"), lies_in("blocks.10.weight", "blocks.1")
        (True, False)
    """
    return f"{name}.".startswith(f"{part}.")


def similar_names(wanted: str, names: Iterable[str], count: int = 8) -> str:
    """List the modules and parameters, at any depth, whose names are most like ``wanted``.

    Example:
        >>> similar_names("encodr", ["net.model.encoder.0.weight", "net.head.bias"], count=2)
        'net.model.encoder, net.model.encoder.0'
    """
    there = {".".join(parts[: n + 1]) for name in names if (parts := name.split(".")) for n in range(len(parts))}

    def distance(name: str) -> tuple[float, int, str]:
        runs = [name, name.rpartition(".")[2]]
        likeness = max(SequenceMatcher(None, wanted, run).ratio() for run in runs)
        return -likeness if wanted not in name else -max(likeness, 0.8), name.count("."), name

    return ", ".join(sorted(there, key=distance)[:count])
