"""What a module does with a batch of tasks in place of its own step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lit_continual.methods.bases.fit.training_step import count_arguments
from lit_continual.methods.meta.inner_loop import Rates
from lit_continual.methods.meta.inner_rates import InnerRates
from lit_continual.methods.meta.known_gradient import known_gradient
from lit_continual.methods.meta.replaced_tensors import call_with
from lit_continual.methods.meta.strategies import MetaStrategy

RATES = " inner rates"  # beside the names of parameters, none of which has a space


class MetaStep:
    """Run the steps of a module by tasks: the outer loss with its meta-gradient, and evaluation after adaptation.

    Args:
        trainer: Knows the scale of the loss and the other processes.
        module: The module, whose ``training_step`` is still its own.
        strategy: Makes a gradient of a task.
        reduction: ``"sum"`` or ``"mean"`` over the tasks.
        rates: Learned inner rates; ``None`` for the strategy's.

    Raises:
        ValueError: If the strategy does not fit the module.
    """

    def __init__(
        self, trainer: Any, module: Any, strategy: MetaStrategy, reduction: str, rates: InnerRates | None
    ) -> None:
        self.trainer, self.module, self.strategy = trainer, module, strategy
        self.reduction, self.rates, self.step = reduction, rates, module.training_step
        self.takes = count_arguments(self.step)
        strategy.check(trainable(module))

    def train(self, step: Callable[..., Any], batch: Any, *index: int) -> Tensor:
        """Return the outer loss of a batch of tasks, whose gradient is the meta-gradient.

        Raises:
            ValueError: If the batch is not made of pairs, or a loss is not finite.
        """
        tasks, at = _pairs(batch), self.trainer.fit_loop.batch_idx
        theta, leaves, rates = self._leaves()
        value, total, scale = torch.zeros((), device=self.module.device), dict[str, Tensor](), self._loss_scale()
        for number, (inner, outer) in enumerate(tasks):
            task = ((False, inner, at), (True, outer, at))
            try:
                loss, gradients = self.strategy.task_gradient(self._loss, theta, task, rates, scale, leaves)
            except ValueError as error:
                raise ValueError(f"Task {number + 1} of {len(tasks)} in batch {at}: {error}") from error
            value = value + loss
            for name, gradient in gradients.items():
                if gradient is not None:
                    total[name] = total[name] + gradient if name in total else gradient
        share = 1 / len(tasks) if self.reduction == "mean" else 1
        self.module.log("train/outer_loss", value * share, batch_size=len(tasks))
        targets = trainable(self.module)
        if self.rates is not None:  # no parameter of the module, so that no strategy averages it over the processes
            targets[RATES] = self.rates.value
            mine = total.get(RATES, torch.zeros_like(self.rates.value, requires_grad=False))
            total[RATES] = self.trainer.strategy.reduce(mine, reduce_op="mean")
        known = [total[name] * share if name in total else None for name in targets]
        return known_gradient(value * share, [*targets.values()], known)

    def evaluate(self, step: Callable[..., Any], batch: Any, *indices: int) -> None:
        """Run an evaluation step on the second batch of each task, adapted to the first.

        Raises:
            ValueError: If the batch is not made of pairs, or an inner loss is not finite.
        """
        for inner, outer in _pairs(batch):
            with torch.inference_mode(False), torch.enable_grad():
                # Tensors that were made in inference mode cannot be saved for a backward pass; copies can.
                inner = tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, inner)
                theta, _, rates = self._leaves()
                fast = self.strategy.adapt(self._loss, theta, (False, inner, indices[0] if indices else 0), rates)
            call_with(self.module, step, fast, outer, *indices)

    def _leaves(self) -> tuple[dict[str, Tensor], dict[str, Tensor], Rates]:
        """Return the parameters, what to differentiate by, and the inner rates, as leaves that share storage.

        They stand for the parameters because the hooks of a distributed strategy hang on those, and must see one
        gradient, the meta-gradient.
        """
        theta = {name: p.detach().requires_grad_() for name, p in trainable(self.module).items()}
        names = self.strategy.adapted(theta)
        if self.rates is None:
            return theta, theta, dict.fromkeys(names, self.strategy.inner_lr)
        learned = self.rates.value.detach().requires_grad_()
        return theta, {**theta, RATES: learned}, self.rates.by_name(learned, names)

    def _loss(self, parameters: dict[str, Tensor], tagged: tuple[bool, Any, int]) -> Tensor:
        is_outer, batch, index = tagged
        buffers = {} if is_outer else {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        arguments = (batch, index)[: self.takes]
        outputs = call_with(self.module, self.step, {**parameters, **buffers}, *arguments, logs=is_outer)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            raise MisconfigurationException(
                f"`{type(self.module).__name__}.training_step` returned {type(outputs).__name__} without a loss:"
                " `MetaTune` needs a tensor, or a dict that holds one under 'loss'."
            )
        return loss

    def _loss_scale(self) -> float:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())


def trainable(module: Any) -> dict[str, Tensor]:
    """Return the parameters of a module that are trained, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _pairs(batch: Any) -> Sequence[tuple[Any, Any]]:
    is_pair = [isinstance(task, (tuple, list)) and len(task) == 2 for task in batch] if isinstance(batch, list) else []
    if not is_pair or not all(is_pair):
        raise ValueError(
            f"`MetaTune` takes a list of pairs (inner batch, outer batch), got {type(batch).__name__}: give"
            " `episodes`, or make the batches with `PatientEpisodes`, and leave `batch_size=None` in the loader."
        )
    pairs: Sequence[tuple[Any, Any]] = batch
    return pairs
