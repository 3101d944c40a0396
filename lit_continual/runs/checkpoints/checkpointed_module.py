"""A module whose checkpoints say what they are."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from typing_extensions import Self, override

from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.seal import seal


class CheckpointedModule(LightningModule):
    """A module whose checkpoints say what they are, and are read by :class:`Checkpoint` alone."""

    #: What another program said of the model that this one began as, such as its license; plain data.
    origin: Mapping[str, Any] = MappingProxyType({})

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seal(checkpoint, type(self))
        if self.origin:
            checkpoint["origin"] = dict(self.origin)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None and self.trainer.state.fn == "fit":  # which goes on as it began
            return
        # How to train is said by a config and not by a file, the weights of classes in a loss too.
        state, loss = checkpoint["state_dict"], getattr(self, "loss", None)
        for name in [name for name in state if str(name).startswith("loss.")]:
            del state[name]
        if isinstance(loss, nn.Module):
            state |= loss.state_dict(prefix="loss.")

    @classmethod
    @override
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        trust: Collection[str] = (),
        **arguments: Any,
    ) -> Self:
        """Build the module of a checkpoint, in training mode as Lightning does, and run no code that it names.

        Args:
            checkpoint_path: The file.
            map_location: Device that the module is moved to.
            hparams_file: Not taken: the arguments are in the checkpoint.
            strict: Whether every weight of the module must be in the file, and no other; by default it must.
            weights_only: Nothing else is read, whatever is given.
            trust: Packages of the caller's own whose classes the file may name too.
            arguments: Arguments of the module that take the place of those in the file.

        Raises:
            ValueError: If the checkpoint is not one of this class, or ``hparams_file`` is given.
        """
        if hparams_file is not None:
            raise ValueError(f"`hparams_file` is not read, got {hparams_file}. Give the arguments by name.")
        module = Checkpoint(checkpoint_path, trust).build(cls, strict is not False, **arguments).train()
        return module.to(map_location) if map_location is not None else module
