"""A-GEM: project gradients that would make the loss on the past worse."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, default_collate
from typing_extensions import override

from lit_continual.methods.agem.projection import project_gradient
from lit_continual.methods.bases.fit.batch_rows import count_rows, take_rows
from lit_continual.methods.bases.fit.replaced_method import ReplacedMethod
from lit_continual.methods.bases.fit.training_batches import on_device
from lit_continual.methods.bases.fit.training_step import ask_step, loss_of
from lit_continual.methods.bases.gradient_edit import GradientEdit, has_gradients, stepped
from lit_continual.methods.bases.guards import require_real
from lit_continual.methods.bases.old_network.logits import memory_of, origins
from lit_continual.methods.bases.partial_training import PartialTraining

_ALONE = (
    "`AGEM` compares new samples with exemplars in each step, and a batch has exemplars alone. Set `batches: mixed`"
    " in the memory (`Exemplars`), or give a `reference`."
)


class AGEM(GradientEdit):
    r"""Let no step make the loss on samples of the past worse, on any LightningModule.

    .. math:: \tilde g = g - \frac{g^\top g_{ref}}{g_{ref}^\top g_{ref}}\, g_{ref} \quad \text{if } g^\top g_{ref} < 0

    :math:`g` is the gradient of an optimizer step, after accumulation, reduction over processes and unscaling, and
    before clipping; :math:`g_{ref}` that of the module's own loss on samples of the past, of all processes together, at
    the same weights. That costs another forward and backward pass a step. With nothing of the past a fit is plain
    training; a warning says so where the batches have no ``origin`` either.

    The samples of the past are the exemplars among the training samples, told by ``batch["origin"]``, a list of
    ``"new"`` and ``"exemplar"``, as :class:`~lit_continual.data.ExemplarMemoryDataModule` makes them with
    ``batches="mixed"``: they leave their batch before ``training_step`` sees it, so that :math:`g` is of new samples
    alone. Or they are a ``reference`` of your own. Running statistics of normalisations see both.

    Args:
        reference: A data set of the past, of which a few samples are drawn for each step: a map-style data set or a
            sequence, with samples as the training data have them. ``None`` takes the exemplars of the batches.
        batch_size: How many samples of ``reference`` are drawn for a step, by each process.
        name: Tells this instance from others of its class, in the logs.

    Raises:
        ValueError: If ``batch_size`` is not positive or ``reference`` is empty.
        MisconfigurationException: Under manual optimization; if gradients would still be scaled when they are edited;
            under strategies that shard the module; if a batch has exemplars alone.

    Logs ``train/<name>``, each epoch the share of the steps with a reference whose gradient was projected.

    References:
        Chaudhry et al. Efficient Lifelong Learning with A-GEM. ICLR 2019, eq. 11.

    Example:
        >>> old = [(torch.zeros(1, 8, 8), torch.zeros(8, 8, dtype=torch.long))] * 20
        >>> callback = AGEM(old, batch_size=4)
    """

    def __init__(
        self, reference: Dataset[Any] | Sequence[Any] | None = None, batch_size: int = 16, name: str = "agem"
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive, got {batch_size}.")
        if reference is not None and not len(reference):  # type: ignore[arg-type]  # a map-style one has a length
            raise ValueError("`reference` is empty: give it samples of the past, or leave it out.")
        self.reference, self.batch_size, self.name = reference, batch_size, name
        self._exemplars: list[Any] = []  # of the batches that this step has accumulated
        self._edited = self._warned = False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._exemplars, self._warned = [], False
        require_real(dict(pl_module.named_parameters()), self, "Take `L2SP` or a memory.")
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"`AGEM` asks `training_step` for the loss on the past, and under manual optimization that of"
                f" {type(pl_module).__name__} steps its optimizers. Set `automatic_optimization = True`."
            )
        if self.reference is None and getattr(memory_of(trainer), "batches", "mixed") != "mixed":
            raise MisconfigurationException(_ALONE)  # in the first fit of a stream, which has no exemplars yet

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the exemplars out of the batch."""
        origin = origins(batch)
        if self.reference is None and not origin and not self._warned and memory_of(trainer) is None:
            self._warned = True
            rank_zero_warn(
                f"`{type(self).__name__}` met no exemplar, and has no `reference`, so this fit is plain training. Give"
                " it samples of the past, the stream a `memory`, or batches an `origin` of 'new' and 'exemplar'."
            )
        old = [row for row, one in enumerate(origin) if one == "exemplar"]
        if self.reference is not None or not old:
            return
        self._exemplars.append(take_rows(batch, old))
        if len(old) < len(origin):
            batch.update(take_rows(batch, [row for row in range(len(origin)) if row not in old]))
        elif trainer.world_size == 1 or not getattr(getattr(trainer.train_dataloader, "sampler", None), "mixed", True):
            raise MisconfigurationException(_ALONE)  # of several processes one may have no new sample in a batch

    @override
    def edit(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._edited = True
        if not has_gradients(optimizer):
            return
        batches = self._exemplars if self.reference is None else [self._draw(trainer)]
        count = torch.tensor(float(sum(map(count_rows, batches))), device=pl_module.device)
        if not float(trainer.strategy.reduce(count, reduce_op="sum")):
            return
        parameters = [p for p in stepped(optimizer) if p.requires_grad]
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        held = [callback for callback in callbacks if isinstance(callback, PartialTraining)]
        for callback in held:  # what does not move has no part in the projection
            callback.clear_gradients(parameters, [p.grad for p in parameters])
        own = _flat_gradient(trainer, pl_module, batches, parameters, held)
        reference = trainer.strategy.reduce(own, reduce_op="sum")
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        edited = project_gradient(gradient, reference.to(gradient))
        projected = not torch.equal(edited, gradient)
        pl_module.log(f"train/{self.name}", float(projected), on_step=False, on_epoch=True, batch_size=1)
        if projected:
            _write(parameters, edited)

    def _draw(self, trainer: Trainer) -> Any:
        """Draw samples of the past, by seed, step and process, so that a resumed fit draws what it would have."""
        seed = [int(os.environ.get("PL_GLOBAL_SEED") or 0), trainer.global_step, trainer.global_rank]
        data: Any = self.reference
        rows = np.sort(np.random.default_rng(seed).choice(len(data), min(self.batch_size, len(data)), replace=False))
        loader: Any = trainer.train_dataloader
        collate = loader.collate_fn if isinstance(loader, DataLoader) and loader.batch_size else default_collate
        return on_device(trainer, collate([data[int(row)] for row in rows]))

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._edited:
            self._exemplars, self._edited = [], False

    @override
    def release(self, pl_module: LightningModule) -> None:
        super().release(pl_module)
        self._exemplars, self._edited = [], False


def _flat_gradient(
    trainer: Trainer,
    module: LightningModule,
    batches: Sequence[Any],
    parameters: Sequence[nn.Parameter],
    held: Sequence[PartialTraining],
) -> Tensor:
    """The gradient of the module's own loss on batches, each by its samples, up to a factor. Nothing is logged."""
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    total = torch.zeros(sum(p.numel() for p in parameters), device=module.device)
    silent = ReplacedMethod(module, "log", lambda log, *args, **kwargs: None)
    try:
        for batch in batches:
            with trainer.precision_plugin.train_step_context():
                loss = loss_of(ask_step(module, batch))
            if loss is not None and loss.requires_grad:
                scaled = loss * count_rows(batch) * (scaler.get_scale() if scaler is not None else 1.0)
                found = torch.autograd.grad(scaled, parameters, materialize_grads=True)
                gradients = [gradient.clone() for gradient in found] if held else found
                for callback in held:
                    callback.clear_gradients(parameters, gradients)
                total += torch.cat([gradient.flatten() for gradient in gradients])
    finally:
        silent.remove()
    return total


def _write(parameters: Sequence[nn.Parameter], gradient: Tensor) -> None:
    """Put a gradient in the place of that of the parameters; what neither loss depends on keeps none."""
    parts = gradient.split([p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        if p.grad is not None:
            p.grad.copy_(part.view_as(p))
        elif part.any():
            p.grad = part.view_as(p).clone()
