"""Base class of the methods of which a Trainer may have several of one class."""

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_continual.methods.bases.fit_memory import FitMemory
from lit_continual.methods.bases.guards import require_batches, require_persistent_replicas


class NamedMethod(FitMemory):
    """A method with a name of its own, whose state has a place of its own in checkpoints.

    Raises:
        MisconfigurationException: When a fit is set up, if ``training_step`` draws its batches itself, under strategies
            that shard the module, and where the method remembers something, under those that drop the processes of
            ``fit``.
    """

    #: Names the method in the logs, as ``train/<name>``, and its state in checkpoints. One trainer, one of a name.
    name: str
    #: Whether it looks into layers or replaces their weights, for which `CompiledNetwork` refuses to compile them.
    needs_eager = False
    #: Whether it knows weights by their names or places, which adapters of `LoRA` change, so that it refuses the two.
    knows_weights = False

    @property
    @override
    def state_key(self) -> str:
        return f"{type(self).__qualname__}[{self.name}]"

    @property
    def remembers(self) -> bool:
        """Whether a later fit needs what this one leaves in ``state_dict``, which must then outlive its processes."""
        return type(self).state_dict is not Callback.state_dict

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            require_batches(pl_module, self)
            require_persistent_replicas(trainer, self, self.remembers)
