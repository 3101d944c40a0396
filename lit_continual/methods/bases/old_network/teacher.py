"""The old network: frozen, on its own, the same after a resume."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from typing_extensions import Self

from lit_continual.files.whole_files import in_one_line, replaced
from lit_continual.methods.bases.old_network.frozen_copy import frozen_copy, silent_copy
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.checkpointed_module import CheckpointedModule
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint
from lit_continual.runs.checkpoints.seal import weights_digest
from lit_continual.segmentation.shared_head import SharedHead


class Teacher:
    """A frozen copy of a module in eval mode, which is no part of the module that learns from it.

    It stands in neither ``parameters()`` nor the checkpoint of the student. A checkpoint written during fit refers to
    the teacher by file name and digest, and the weights lie beside it in that file, once for all checkpoints.

    Args:
        module: The module to copy; its forward may read ``self.trainer``, and what it logs is dropped.
        trainer: The trainer of the fit.
        channels: Of the outputs of the old network, where the module has grown since. A shared head gives its growth
            back, which has taken a part of the background; of other outputs the first are those of the old network.
    """

    def __init__(self, module: nn.Module, trainer: Trainer, channels: int | None = None) -> None:
        self.module = silent_copy(module, trainer)
        if channels is not None:
            for head in [part for part in self.module.modules() if isinstance(part, SharedHead)]:
                head.shrink(channels)
        self.digest = weights_digest(_weights(self.module))

    @property
    def file_name(self) -> str:
        """Name of the file of its weights; the digest of the weights is part of it."""
        return f"teacher-{self.digest[:16]}.pt"

    @classmethod
    def of(cls, module: nn.Module, trainer: Trainer, pl_module: LightningModule) -> Self:
        """Copy a module that the caller has, to where ``pl_module`` is."""
        teacher = cls(module, trainer)
        trainer.precision_plugin.convert_module(teacher.module.to(pl_module.device))
        return teacher

    @classmethod
    def from_checkpoint(cls, path: str, trainer: Trainer, pl_module: LightningModule) -> Self:
        """Rebuild the network of a checkpoint of the class of ``pl_module``, with its own architecture.

        Where it cannot be built from its hyper-parameters, its weights are loaded into a copy of ``pl_module``.

        Raises:
            ValueError: If the file is no readable checkpoint of that class.
        """
        with _here(path) as file:
            checkpoint = Checkpoint(file, _packages_of(pl_module))
        if isinstance(pl_module, CheckpointedModule):
            _ = checkpoint.hyper_parameters  # what no file may name is an error, whether the weights fit or not
        strict = pl_module.strict_loading
        try:
            module = checkpoint.build(type(pl_module), strict)
        except Exception as error:  # of a constructor, which may raise anything
            module = frozen_copy(pl_module)
            try:
                module.load_state_dict(checkpoint.state_dict, strict)
            except RuntimeError as second:
                raise ValueError(
                    f"`{type(pl_module).__name__}` cannot be rebuilt as a teacher from {path} ({in_one_line(error)}),"
                    f" nor does the module in training take its weights ({in_one_line(second)}). Call"
                    " `save_hyperparameters()` in its constructor and save the checkpoint again, or give the old module"
                    " itself, `teacher=old_module`."
                ) from error
        return cls.of(module, trainer, pl_module)

    @classmethod
    def restore(cls, file_name: str, trainer: Trainer, pl_module: LightningModule, channels: int | None = None) -> Self:
        """Rebuild the teacher of a checkpoint that is being resumed from the file that lies beside it.

        Raises:
            ValueError: If the file is missing or holds other weights.
        """
        folders = [str(trainer.ckpt_path).replace("\\", "/").rpartition("/")[0] or ".", *_folders(trainer)]
        found = [path for folder in folders if get_filesystem(path := f"{folder}/{file_name}").isfile(path)]
        if not found:
            raise ValueError(
                f"The teacher of this checkpoint, {file_name}, is not in {folders[0]}. Move it there with the"
                " checkpoint, or start the fit anew."
            )
        teacher = cls(pl_module, trainer, channels)
        with _here(found[0]) as path:
            nn.Module.load_state_dict(teacher.module, load_checkpoint(path), strict=pl_module.strict_loading)
        teacher.digest = weights_digest(_weights(teacher.module))
        if teacher.file_name != file_name:
            raise ValueError(f"{found[0]} holds other weights than when it was written. Restore it or start anew.")
        return teacher

    def save(self, trainer: Trainer) -> None:
        """Write the weights beside the checkpoints of every checkpoint callback, where ``restore`` looks, once."""
        folders = _folders(trainer)
        for path in [f"{folder}/{self.file_name}" for folder in folders[:-1] or folders]:
            if trainer.is_global_zero and not get_filesystem(path).exists(path):
                with _to(path) as file:
                    torch.save(_weights(self.module), file)


def _packages_of(pl_module: LightningModule) -> list[str]:
    """The package of the network that the user has named for the module in training, which its teacher may name too."""
    network = getattr(pl_module, "hparams", {}).get("network")
    name = str(network.get("_target_", "")) if isinstance(network, Mapping) else ""
    return [name.partition(".")[0]] if "." in name else []


def _folders(trainer: Trainer) -> list[str]:
    checkpoints: Any = trainer.checkpoint_callbacks
    folders = [*(getattr(checkpoint, "dirpath", None) for checkpoint in checkpoints), trainer.default_root_dir]
    return list(dict.fromkeys(str(folder).rstrip("/\\") for folder in folders if folder))


@contextmanager
def _to(path: str) -> Iterator[Any]:
    """Give a place to write to, for a path or a URL; what is there afterwards is whole."""
    if not _is_remote(path):
        with replaced(path) as temporary:
            yield temporary
    else:
        files = get_filesystem(path)
        with files.transaction, files.open(path, "wb") as file:
            yield file


@contextmanager
def _here(path: str) -> Iterator[str]:
    """Give the path of a file that may lie elsewhere, at a URL."""
    if not _is_remote(path):
        yield path
    else:
        with TemporaryDirectory() as folder:
            get_filesystem(path).get(path, f"{folder}/{path.rpartition('/')[2]}")
            yield f"{folder}/{path.rpartition('/')[2]}"


def _is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def _weights(module: nn.Module) -> dict[str, Any]:
    """All that the module holds: a ``state_dict`` of its own may leave out what does not train."""
    return nn.Module.state_dict(module)
