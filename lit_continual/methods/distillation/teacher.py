"""The old network: frozen, on its own, the same after a resume."""

import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import Self

from lit_continual.runs.checkpoint import Checkpoint, load_checkpoint
from lit_continual.runs.files import in_one_line, replaced
from lit_continual.runs.seal import weights_digest


class Teacher:
    """A frozen copy of a module in eval mode, which is no part of the module that learns from it.

    It stands in neither ``parameters()`` nor the checkpoint of the student. A checkpoint written during fit refers to
    the teacher by file name and digest, and the weights lie beside it in that file, once for all checkpoints.
    """

    def __init__(self, module: LightningModule) -> None:
        self.module = module.eval().requires_grad_(False)
        self.digest = weights_digest(module.state_dict())

    @property
    def file_name(self) -> str:
        """Name of the file of its weights; the digest of the weights is part of it."""
        return f"teacher-{self.digest[:16]}.pt"

    @classmethod
    def snapshot(cls, pl_module: LightningModule) -> Self:
        """Copy ``pl_module`` as it is now."""
        return cls(copy.deepcopy(pl_module))

    @classmethod
    def from_checkpoint(cls, path: str | Path, pl_module: LightningModule) -> Self:
        """Rebuild the network of a Lightning checkpoint of the class of ``pl_module``, with its own architecture.

        Raises:
            ValueError: If the file is no readable checkpoint of that class.
        """
        try:
            module = Checkpoint(path).build(type(pl_module))
        except Exception as error:
            raise ValueError(
                f"`{type(pl_module).__name__}` cannot be rebuilt as a teacher from {path}"
                f" ({in_one_line(error)}). Call `save_hyperparameters()` in its constructor and save the"
                " checkpoint again, or load the old weights before fit and use teacher='start'."
            ) from error
        return cls(module.to(pl_module.device))

    @classmethod
    def restore(cls, file_name: str, trainer: Trainer, pl_module: LightningModule) -> Self:
        """Rebuild the teacher of a checkpoint that is being resumed from the file that lies beside it.

        Raises:
            ValueError: If the file is missing or holds other weights.
        """
        folders = [Path(str(trainer.ckpt_path)).parent, *_folders(trainer)]
        found = [folder / file_name for folder in folders if (folder / file_name).is_file()]
        if not found:
            raise ValueError(
                f"The teacher of this checkpoint, {file_name}, is not in {folders[0]}. Move it there with the"
                " checkpoint, or start the fit anew."
            )
        module = copy.deepcopy(pl_module)
        module.load_state_dict(load_checkpoint(found[0]))
        teacher = cls(module)
        if teacher.file_name != file_name:
            raise ValueError(f"{found[0]} holds other weights than when it was written. Restore it or start anew.")
        return teacher

    def save(self, trainer: Trainer) -> None:
        """Write the weights beside the checkpoints of every checkpoint callback, where ``restore`` looks, once."""
        folders = _folders(trainer)
        for path in [folder / self.file_name for folder in folders[:-1] or folders]:
            if trainer.is_global_zero and not path.exists():
                with replaced(path) as temporary:
                    torch.save(self.module.state_dict(), temporary)


def _folders(trainer: Trainer) -> list[Path]:
    checkpoints: Any = trainer.checkpoint_callbacks
    folders = [*(getattr(checkpoint, "dirpath", None) for checkpoint in checkpoints), trainer.default_root_dir]
    return list(dict.fromkeys(Path(folder) for folder in folders if folder))
