"""The checkpoint of an adapted network: what it takes over from the original, and what it was made of."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lit_continual.files.whole_files import replaced
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.seal import SECTION, seal, weights_digest

#: What an adapted checkpoint takes over: not the state of a training that is over.
_KEPT = {"hyper_parameters", "datamodule_hyper_parameters", "pytorch-lightning_version", "epoch", "global_step"}
_KEPT |= {"origin"}


def write_adapted(
    path: Path, opened: Checkpoint, module: LightningModule, states: Mapping[str, Any], made_of: str
) -> None:
    """Write an adapted module as a sealed checkpoint.

    Args:
        path: The file.
        opened: The checkpoint that it was made from.
        module: The module.
        states: Of the callbacks that trained it, by their state key.
        made_of: See :func:`digest_of`.
    """
    kept = {key: value for key, value in opened.content.items() if key in _KEPT}
    kept |= {"state_dict": module.state_dict(), "callbacks": dict(states)}
    seal(kept, type(module))
    kept[SECTION]["adapted"] = made_of
    with replaced(path) as temporary:
        torch.save(kept, temporary)


def digest_of(opened: Checkpoint, study: str, *options: Any) -> str:
    """What distinguishes an adapted network from others: another call that is to make the same may replace it."""
    parts = [weights_digest(opened.state_dict), str(Path(study).resolve()), *map(repr, options)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def origin(path: Path) -> str:
    """What the adapted network in a file was made of; empty where there is none."""
    if not path.is_file():
        return ""
    try:
        return str(Checkpoint(path).content[SECTION]["adapted"])
    except (ValueError, KeyError):
        return ""  # of something else
