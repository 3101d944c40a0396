"""Layers that a module makes later than callbacks are set up."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer


def make_layers(trainer: Trainer, pl_module: LightningModule, who: object) -> None:
    """Let a module make its layers, in the ``setup`` of a callback that needs them there.

    Lightning calls ``configure_model`` between that ``setup`` and the optimizers. It may be called again, as Lightning
    asks of it, since each fit and each evaluation does.

    Args:
        trainer: The trainer of the fit.
        pl_module: The module.
        who: The callback.

    Raises:
        MisconfigurationException: If the module has no parameters yet, such as one whose own ``setup`` makes them.
    """
    strategy, precision = trainer.strategy, trainer.precision_plugin
    with strategy.tensor_init_context(), strategy.model_sharded_context(), precision.module_init_context():
        pl_module.configure_model()
    if next(pl_module.parameters(), None) is None:
        raise MisconfigurationException(
            f"`{type(who).__name__}` needs the layers of {type(pl_module).__name__} when callbacks are set up, and it"
            " has none then. Make them in its `__init__` or its `configure_model`, not in `setup`."
        )
