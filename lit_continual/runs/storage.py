"""Checkpoints on disk: loaded without running code from them, written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from lit_continual.runs.files import in_one_line, replaced


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint of tensors and plain containers to the CPU, without running any code from it.

    Raises:
        ValueError: If the file is missing, truncated or not such a checkpoint.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint at {path}. Check the path.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors and plain values ({in_one_line(error)})."
            " It may be truncated or of another program; use another checkpoint."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint. Use another file.")
    return checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their place and moved there whole."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replaced(path) as temporary:
            torch.save(checkpoint, temporary)
