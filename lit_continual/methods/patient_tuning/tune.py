"""A few steps of a segmenter on the annotated voxels of one volume."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import move_data_to_device

from lit_continual.data.batch import collate
from lit_continual.methods.bases.fit.evaluated_layers import evaluating
from lit_continual.methods.patient_tuning.annotated_windows import AnnotatedWindows

OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
MOST = {2: 8, 3: 2}  # windows of a step, of a network of that many dimensions


class Tuning:
    """Train a ``Segmenter`` in place on the annotated voxels of a volume, some steps at a time.

    A step sees all annotated slices, or of a 3D network patches around annotated voxels; the loss is that of the
    annotated voxels. The network is in evaluation mode, as when it predicts: nothing is dropped out, and batch
    normalisation normalises by its running statistics, which stay as they are. Gradients are on inside, also in
    inference.

    Args:
        module: The segmenter; its parameters that require a gradient are tuned.
        volume: See :class:`~lit_continual.methods.patient_tuning.annotated_windows.AnnotatedWindows`.
        lr: Learning rate.
        optimizer: ``"adam"`` or ``"sgd"``, both without weight decay, and SGD without momentum: the inner step of MAML.
        batch_size: Most slices, or the number of patches, of a step; ``None`` for 8 slices or 2 patches. More slices
            than that come in turn.
        seed: Seed of the windows.

    Raises:
        ValueError: If no voxel is annotated.
    """

    def __init__(
        self,
        module: LightningModule,
        volume: Mapping[str, Any],
        lr: float,
        optimizer: str = "adam",
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        network: Any = module
        size = network.window(volume["image"].shape[1:])
        self.network = network
        self.windows = AnnotatedWindows(volume, size, seed)
        count = batch_size or MOST[len(size)]
        self.count = min(count, len(self.windows.slices)) if len(size) == 2 else count
        self.done = 0
        self.optimizer: Any = OPTIMIZERS[optimizer]([p for p in module.parameters() if p.requires_grad], lr=lr)

    def go_to(self, steps: int) -> None:
        """Go on until that many steps are done.

        Raises:
            ValueError: If the loss is not finite.
        """
        network = self.network
        with torch.inference_mode(False), torch.enable_grad(), evaluating(network):
            for number in range(self.done, steps):
                first = number * self.count
                samples = collate([self.windows[n] for n in range(first, first + self.count)])
                batch = move_data_to_device(samples, network.device)
                loss = network.batch_loss(network(batch["image"]), batch)
                if not torch.isfinite(loss):
                    raise ValueError(f"The loss at step {number + 1} is {loss.item()}. Choose a smaller `lr`.")
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.done = max(self.done, steps)


def check_options(steps: Sequence[int], lr: float, optimizer: str, batch_size: int | None) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: If one is out of range.
    """
    if not steps or min(steps) < 0 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"`steps` must be 0 or more and `batch_size` 1 or more, got {list(steps)} and {batch_size}.")
    if not 0 < lr < float("inf"):
        raise ValueError(f"`lr` must be above 0, got {lr}.")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"`optimizer` must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}.")
