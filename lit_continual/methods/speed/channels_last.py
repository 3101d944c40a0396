"""Convolutions with the channels last in memory."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.releasing import Releasing

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: Layout of the weight of a convolution, by its axes.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


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
        self._lay(pl_module)  # before the strategy, as DDP lays its gradients like the weights

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lay(pl_module)  # what the module has made since, such as a new head

    def _lay(self, module: nn.Module) -> None:
        for layer in module.modules():
            for weight in layer.parameters(recurse=False) if isinstance(layer, CONVOLUTIONS) else ():
                layout = FORMATS.get(weight.ndim)
                if layout and weight.is_contiguous() and not weight.is_contiguous(memory_format=layout):
                    weight.data = weight.data.contiguous(memory_format=layout)
                    self._laid.append(weight)

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
