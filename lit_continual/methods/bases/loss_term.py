"""Base class of the callbacks that add a term to the training loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lit_continual.methods.bases.fit.forward_calls import ForwardCall, ForwardCalls
from lit_continual.methods.bases.fit.replaced_method import ReplacedMethod
from lit_continual.methods.bases.fit.training_step import loss_of
from lit_continual.methods.bases.guards import require_automatic_optimization
from lit_continual.methods.bases.named_method import NamedMethod
from lit_continual.methods.bases.releasing import Releasing


class LossTerm(NamedMethod, Releasing, ABC):
    """Add one term to the loss that ``training_step`` returns, for the length of ``fit``.

    The term is part of the returned loss, so precision scaling, gradient accumulation, clipping and the
    distributed strategy treat it as they treat the loss of the module. Works on any LightningModule under automatic
    optimization, whether its step returns a tensor or a mapping with ``"loss"``.

    Raises:
        MisconfigurationException: Under manual optimization, and under strategies that shard the module or drop the
            processes of ``fit``.

    Logs ``train/<name>``, the weighted term, at every step that has one.

    Example:
        >>> class Smoothness(LossTerm):
        ...     name = "smoothness"
        ...
        ...     def compute(self, pl_module, batch, outputs):
        ...         return 1e-3 * sum(p.abs().sum() for p in pl_module.parameters())
        >>> Smoothness().state_key
        'Smoothness[smoothness]'
    """

    #: While ``compute`` runs: the call of the module's own ``forward`` that the loss came from, with its ``args``, its
    #: ``kwargs`` and its ``output``, which is in the graph. Of several calls in a step it is the one that returned
    #: ``outputs["logits"]``, else the last whose output has a gradient; ``None`` where ``training_step`` made none.
    captured: ForwardCall | None = None

    @abstractmethod
    def compute(self, pl_module: LightningModule, batch: Any, outputs: Any) -> Tensor | None:
        """Return the weighted term, a scalar in the graph, or ``None`` where there is none yet.

        Args:
            pl_module: The module in training, in train mode and under the autocast of the trainer.
            batch: The batch that ``training_step`` got, on the device.
            outputs: What ``training_step`` returned: the loss, or a mapping that holds it under ``"loss"``.
        """

    def share_of_loss(self, batch: Any) -> float:
        """Return the factor on the module's own loss for this batch, for terms that share its weight."""
        return 1.0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_automatic_optimization(pl_module, self)
        (_Terms.of(pl_module) or _Terms(pl_module)).terms.append(self)

    @override
    def release(self, pl_module: LightningModule) -> None:
        _Terms.remove(pl_module, self)


class _Terms:
    """Stands in for the ``training_step`` of one module and adds its terms, however many there are."""

    def __init__(self, pl_module: LightningModule) -> None:
        self.module, self.terms = pl_module, list[LossTerm]()
        self.calls = ForwardCalls(pl_module)
        self.replaced = ReplacedMethod(pl_module, "training_step", self)

    def __call__(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            with self.calls:
                outputs = step(*args, **kwargs)
            return self._with_terms(args[0] if args else next(iter(kwargs.values())), outputs)
        finally:
            self.calls.clear()  # Nothing keeps the graph of this step.

    def _with_terms(self, batch: Any, outputs: Any) -> Any:
        loss = loss_of(outputs)
        if loss is None:
            return outputs  # Lightning skips the step, or says what is missing.
        captured = self.calls.of(outputs)
        terms = [(term, _value(term, captured, self.module, batch, outputs)) for term in self.terms]
        for term, _ in terms:
            share = term.share_of_loss(batch)
            loss = loss if share == 1.0 else share * loss
        for term, value in terms:
            if value is not None:
                self.module.log(f"train/{term.name}", value.detach())
                loss = loss + value
        return {**outputs, "loss": loss} if isinstance(outputs, Mapping) else loss

    @staticmethod
    def of(pl_module: LightningModule) -> "_Terms | None":
        step: Any = pl_module.training_step
        return step.function if isinstance(step, ReplacedMethod) and isinstance(step.function, _Terms) else None

    @staticmethod
    def remove(pl_module: LightningModule, term: LossTerm) -> None:
        found = _Terms.of(pl_module)
        if found is not None and term in found.terms:
            found.terms.remove(term)
            if not found.terms:
                found.replaced.remove()


def _value(term: LossTerm, captured: ForwardCall | None, module: LightningModule, batch: Any, outputs: Any) -> Any:
    term.captured = captured
    try:
        return term.compute(module, batch, outputs)
    finally:
        term.captured = None  # nor the term keeps the graph
