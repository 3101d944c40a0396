"""Weights in a file: read them safely, and match their names with those of a module."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from lit_continual.runs.checkpoints.checkpoint import Checkpoint

_DENSE_LAYER = re.compile(r"(denselayer\d+)\.(?:layers\.)?(norm|conv)\.?([12])\.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict, or of a Lightning checkpoint, without running any code from the file.

    Args:
        path: A file that ``torch.save`` wrote: a mapping name -> tensor, or one that holds it as ``"state_dict"``. It
            may name environment variables.

    Raises:
        ValueError: If the file does not exist, holds more than tensors and plain containers, holds no tensors, or its
            weights are not those that were written.

    Example:
        >>> read_weights("nowhere.ckpt")
        Traceback (most recent call last):
        ValueError: There is no checkpoint at nowhere.ckpt. Check the path.
    """
    found = os.path.expandvars(path)
    content = Checkpoint(found if Path(found).exists() else path).content  # errors say the name of a variable
    content = content.get("state_dict", content)
    tensors = {k: value for k, value in content.items() if isinstance(value, Tensor) and isinstance(k, str)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name. Save a `state_dict()` there.")
    return tensors


def match_names(wanted: Iterable[str], available: Iterable[str]) -> dict[str, str]:
    """Find the ``available`` name of each ``wanted`` one, where the two differ by one prefix on either side.

    ``network.encoder.features.conv0.weight`` meets ``features.conv0.weight``: of all pairs of prefixes the one that
    matches most names counts, and among equals the shortest. DenseNet layers of torchvision (``norm1``, and
    ``norm.1`` of its older files) and MONAI (``layers.norm1``) are one name.

    Args:
        wanted: Names in the module.
        available: Names in the file.

    Returns:
        Wanted name -> available name, for the wanted names that have one.

    Example:
        >>> match_names(["net.encoder.a.weight", "net.head.bias"], ["encoder.a.weight", "classifier.bias"])
        {'net.encoder.a.weight': 'encoder.a.weight'}
    """
    here = {_canonical(name): name for name in wanted}
    there = {_canonical(name): name for name in available}
    prefixes = defaultdict(list)
    for name in here:
        for prefix, tail in _splits(name):
            prefixes[tail].append(prefix)
    pairs = Counter((a, b) for name in there for b, tail in _splits(name) for a in prefixes[tail])
    if not pairs:
        return {}
    a, b = max(pairs, key=lambda pair: (pairs[pair], -len(pair[0]) - len(pair[1])))
    return {
        here[name]: there[b + name[len(a) :]] for name in here if name.startswith(a) and b + name[len(a) :] in there
    }


def _canonical(name: str) -> str:
    return _DENSE_LAYER.sub(r"\1.layers.\2\3.", name)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield ``(prefix, tail)``; a tail has its layer's name too, since every layer has a ``weight``."""
    parts = name.split(".")
    yield "", name
    for cut in range(1, len(parts) - 1):
        yield ".".join(parts[:cut]) + ".", ".".join(parts[cut:])
