"""What a checkpoint says of itself: the class of its module, and a checksum of its weights and class names."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_continual import __version__
from lit_continual.runs.checkpoints.classes import MODULES

SECTION = "lit_continual"  # of a checkpoint: what this package says of it


def seal(checkpoint: dict[str, Any], kind: type) -> None:
    """Write into a checkpoint which class it is of, and a checksum of its weights and class names."""
    name = kind.__name__ if MODULES.own.get(kind.__name__) is kind else f"{kind.__module__}.{kind.__qualname__}"
    checkpoint[SECTION] = {"module": name, "version": __version__}
    checkpoint[SECTION]["sha256"] = digest(checkpoint)


def digest(checkpoint: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the module's class, its hyper-parameters, class names among them, and its weights."""
    known = {"module": checkpoint[SECTION]["module"], "hyper_parameters": checkpoint.get("hyper_parameters")}
    text = json.dumps(known, sort_keys=True, default=str) + weights_digest(checkpoint["state_dict"])
    return hashlib.sha256(text.encode()).hexdigest()


def weights_digest(state_dict: Mapping[str, Any]) -> str:
    """Return the SHA-256 of weights and their names."""
    found = hashlib.sha256()
    for name, value in state_dict.items():
        if isinstance(value, Tensor):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
