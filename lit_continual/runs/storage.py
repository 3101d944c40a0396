"""Checkpoints on disk: loaded without running code from them, written whole or not at all."""

from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from lit_continual.runs.files import replaced


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their place and moved there whole."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replaced(path) as temporary:
            torch.save(checkpoint, temporary)
