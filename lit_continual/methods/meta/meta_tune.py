"""Meta-tune: fine-tune any LightningModule by the gradient after adaptation."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils._pytree import tree_map_only
from typing_extensions import override

from lit_continual.methods.meta.inner_loop import Rates
from lit_continual.methods.meta.inner_rates import InnerRates
from lit_continual.methods.meta.known_gradient import known_gradient
from lit_continual.methods.meta.meta_gradient import check_options
from lit_continual.methods.meta.strategies import MetaStrategy
from lit_continual.methods.meta.wrapped_module import WrappedModule

RATES = "inner_rates.value"


class MetaTune(WrappedModule):
    r"""Fine-tune ``module`` on tasks :math:`(D_i, D'_i)` so that it does well after a few steps on each.

    .. math:: \theta \leftarrow \theta - \beta \nabla_\theta \sum_i L(\theta'_i; D'_i), \qquad
        \theta'_i = \theta - \alpha \nabla_\theta L(\theta; D_i)

    A training batch is a sequence of pairs ``(D, D')``, usually the tasks of one patient, each in the form that
    ``module.training_step`` takes; :class:`~lit_continual.data.PatientEpisodes` makes them. The step returns the
    outer loss with its meta-gradient attached, so the optimizer, schedules, clipping, accumulation, loss scaling,
    distributed reduction and checkpoints are those of any module. Ranks and accumulated batches are averaged, as
    Lightning does: with ``reduction="sum"`` the loss sums over the tasks of a patient and averages over patients.

    In an inner pass nothing is logged and no buffer moves; the outer pass logs, and moves the running statistics of
    batch norms, as one step of ordinary training would. Metrics that ``training_step`` updates see both passes.

    Args:
        module: Any module with automatic optimization whose ``training_step`` returns a loss; it is not copied.
        strategy: :class:`MAML`, :class:`FOMAML`, :class:`ANIL` or :class:`Reptile`, with the inner rate and steps;
            :class:`Naive` for fine-tuning on the same tasks. ``None`` trains on ordinary batches, as the module would
            alone: how a stream learns what is fine-tuned next.
        reduction: ``"sum"`` over the tasks as in Algorithm 1, or ``"mean"`` as in MAML's code.
        learn_inner_lr: Learn one inner rate per layer, starting from the strategy's, in the module's optimizer (in
            a parameter group of its own, without weight decay). ``ddp_fork`` and ``ddp_spawn`` do not bring them back
            to the process that called fit; ``ddp`` does.
        adapt_in_evaluation: Validation and test batches are sequences of pairs too: adapt on ``D`` with gradients
            on and in eval mode, then run the module's step on ``D'``. Otherwise they go to the module as they are.

    Raises:
        ValueError: If ``reduction`` is unknown or a part of ANIL selects nothing; in training, if a batch is not
            made of pairs, or a loss is not finite.
        MisconfigurationException: With manual optimization, sharded parameters, or rates that cannot be learned.

    Logs ``train/outer_loss``, and what the module logs itself.

    References:
        Han et al. Learning to Learn Unlearned Feature for Brain Tumor Segmentation. 2018, Algorithm 1.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from lit_continual.modules import MAML
        >>> tuned = MetaTune(BoringModel(), MAML(inner_lr=0.1), learn_inner_lr=True)
        >>> [name for name, _ in tuned.named_parameters()]
        ['module.layer.weight', 'module.layer.bias', 'inner_rates.value']
    """

    def __init__(
        self,
        module: LightningModule,
        strategy: MetaStrategy | None = None,
        reduction: str = "sum",
        learn_inner_lr: bool = False,
        adapt_in_evaluation: bool = False,
    ) -> None:
        super().__init__(module)
        self.strategy, self.reduction, self.adapt_in_evaluation = strategy, reduction, adapt_in_evaluation
        _require_automatic_optimization(module)
        self.inner_rates: InnerRates | None = None
        if strategy is None:
            return
        check_options(strategy.inner_lr, strategy.order, reduction, strategy.inner_steps)
        if learn_inner_lr:
            if not strategy.learns_rates:
                raise MisconfigurationException(
                    f"`learn_inner_lr=True` needs a gradient by the inner rates, which {type(strategy).__name__} does"
                    " not have: use MAML, FOMAML or ANIL, or fixed rates."
                )
            self.inner_rates = InnerRates(strategy.adapted(self._trainable()), strategy.inner_lr)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._grow_rates()
        if self.strategy is None:
            return
        self.strategy.check(self._trainable())
        _require_automatic_optimization(self.module)
        if isinstance(self.trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            raise MisconfigurationException(
                f"`MetaTune` replaces whole parameters, which {type(self.trainer.strategy).__name__} shards: use"
                " `strategy='ddp'` or one device."
            )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.inner_rates is not None:
            checkpoint[RATES] = self.inner_rates.value.detach().clone()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._grow_rates()
        if self.inner_rates is not None and RATES in checkpoint:
            self.inner_rates.value.data.copy_(checkpoint[RATES])

    def _grow_rates(self) -> None:
        if self.strategy is not None and self.inner_rates is not None:  # the module may have grown a head
            self.inner_rates.grow(self.strategy.adapted(self._trainable()))

    @override
    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        return configured if self.inner_rates is None else self.inner_rates.join(configured, type(self.module).__name__)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.strategy is None:
            return self.run_step("training_step", {}, batch, batch_idx)
        return self._meta_step(self.strategy, batch, batch_idx)

    def _meta_step(self, strategy: MetaStrategy, batch: Any, batch_idx: int) -> Tensor:
        tasks = _pairs(batch)
        theta, leaves, rates = self._leaves(strategy)
        value, total, scale = torch.zeros((), device=self.device), dict[str, Tensor](), self._loss_scale()
        for number, (inner, outer) in enumerate(tasks):
            task = ((False, inner, batch_idx), (True, outer, batch_idx))
            try:
                loss, gradients = strategy.task_gradient(self._loss, theta, task, rates, scale, leaves)
            except ValueError as error:
                raise ValueError(f"Task {number + 1} of {len(tasks)} in batch {batch_idx}: {error}") from error
            value = value + loss
            for name, gradient in gradients.items():
                if gradient is not None:
                    total[name] = total[name] + gradient if name in total else gradient
        share = 1 / len(tasks) if self.reduction == "mean" else 1
        self.log("train/outer_loss", value * share, batch_size=len(tasks))
        targets = self._trainable() | ({} if self.inner_rates is None else {RATES: self.inner_rates.value})
        gradients = {name: total[name] * share if name in total else None for name in targets}
        return known_gradient(value * share, [*targets.values()], [*gradients.values()])

    @override
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self._evaluate("validation_step", batch, batch_idx, dataloader_idx)

    @override
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self._evaluate("test_step", batch, batch_idx, dataloader_idx)

    @override
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.run_step("predict_step", {}, batch, batch_idx, dataloader_idx)

    def _evaluate(self, step: str, batch: Any, *indices: int) -> Any:
        if self.strategy is None or not self.adapt_in_evaluation:
            return self.run_step(step, {}, batch, *indices)
        for inner, outer in _pairs(batch):
            with torch.inference_mode(False), torch.enable_grad():
                # Tensors that were made in inference mode cannot be saved for a backward pass; copies can.
                inner = tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, inner)
                theta, _, rates = self._leaves(self.strategy)
                fast = self.strategy.adapt(self._loss, theta, (False, inner, indices[0]), rates)
            self.run_step(step, fast, outer, *indices)
        return None

    def _trainable(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def _leaves(self, strategy: MetaStrategy) -> tuple[dict[str, Tensor], dict[str, Tensor], Rates]:
        """Return the parameters, what to differentiate by, and the inner rates, as leaves that share storage.

        They stand for the parameters because the hooks of a distributed strategy hang on those, and must see one
        gradient, the meta-gradient.
        """
        theta = {name: p.detach().requires_grad_() for name, p in self._trainable().items()}
        names = strategy.adapted(theta)
        if self.inner_rates is None:
            return theta, theta, dict.fromkeys(names, strategy.inner_lr)
        learned = self.inner_rates.value.detach().requires_grad_()
        return theta, {**theta, RATES: learned}, self.inner_rates.by_name(learned, names)

    def _loss(self, parameters: dict[str, Tensor], tagged: tuple[bool, Any, int]) -> Tensor:
        is_outer, batch, batch_idx = tagged
        buffers = {} if is_outer else {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        outputs = self.run_step("training_step", {**parameters, **buffers}, batch, batch_idx, logs=is_outer)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            raise MisconfigurationException(
                f"`{type(self.module).__name__}.training_step` returned {type(outputs).__name__} without a loss:"
                " `MetaTune` needs a tensor, or a dict that holds one under 'loss'."
            )
        return loss

    def _loss_scale(self) -> float:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer is not None else None
        return 1.0 if scaler is None else float(scaler.get_scale())


def _pairs(batch: Any) -> Sequence[tuple[Any, Any]]:
    is_pair = [isinstance(task, (tuple, list)) and len(task) == 2 for task in batch] if isinstance(batch, list) else []
    if not is_pair or not all(is_pair):
        raise ValueError(
            f"`MetaTune` takes a list of pairs (inner batch, outer batch), got {type(batch).__name__}: make the"
            " batches with `PatientEpisodes`, and leave `batch_size=None` in the loader."
        )
    pairs: Sequence[tuple[Any, Any]] = batch
    return pairs


def _require_automatic_optimization(module: LightningModule) -> None:
    if not module.automatic_optimization:
        raise MisconfigurationException(
            f"`MetaTune` differentiates the loss that `training_step` returns, and `{type(module).__name__}` steps its"
            " optimizers itself: set `automatic_optimization = True`."
        )
