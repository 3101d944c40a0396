"""Convolutions with the channels last in memory."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.guards import require_whole_weights
from lit_continual.methods.bases.layout import lay_channels_last
from lit_continual.methods.bases.releasing import Releasing


class ChannelsLast(Releasing):
    """Lay the weights of convolutions with the channels last in memory, in 2D and 3D, while a fit or evaluation runs.

    A convolution whose weights lie so computes so, and so do the layers behind it, as tensor cores want it: most is won
    on a GPU with 16 bits. Sums are taken in another order, so the last bits are others, and dropout falls on other
    voxels. Nothing else changes: names, shapes and values of the weights are the same, in checkpoints they lie as ever,
    and afterwards in the module too.

    Example:
        >>> callback = ChannelsLast()
    """

    def __init__(self) -> None:
        self._laid: list[nn.Parameter] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_whole_weights(trainer, self)
        self._laid += lay_channels_last(pl_module)  # before the strategy, as DDP lays its gradients like the weights

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._laid += lay_channels_last(pl_module)  # what the module has made since, such as a new head

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        for name, value in state.items():
            state[name] = value.contiguous() if isinstance(value, Tensor) else value

    @override
    def release(self, pl_module: LightningModule) -> None:
        for weight in self._laid:
            weight.data = weight.data.contiguous()
        self._laid = []
