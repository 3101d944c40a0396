"""Base class of the penalties whose importances are gathered while training, from the steps of the optimizer."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lit_continual.methods.bases.anchor import select_parameters
from lit_continual.methods.bases.final_weights import FinalWeights, settle_weights
from lit_continual.methods.bases.fit.after_training import on_device_of_training
from lit_continual.methods.bases.gradient_edit import among, stepped
from lit_continual.methods.bases.importance.importance_penalty import ImportancePenalty

Named = dict[str, Tensor]


class PathImportance(ImportancePenalty, FinalWeights):
    r"""Gather importances from the gradient and the move of each weight in each optimizer step.

    The gradient is that of the loss alone: accumulated, reduced over processes and unscaled, and taken before this
    penalty joins it and before clipping. The move is what the weight has really done by the end of the batch, whatever
    optimizer, clipping and weight decay made of it; a step that a scaler skips moves nothing and counts nothing.
    Penalties of other callbacks that stand earlier in the Trainer's list are part of the gradient: put this one first.
    The arguments are those of :class:`ImportancePenalty`.
    """

    def __init__(self, strength: float, decay: float, parameters: str | Sequence[str], name: str) -> None:
        super().__init__(strength, decay, parameters, name)
        #: What has been gathered, by its own name and that of the parameter.
        self.sums: dict[str, Named] = {}
        self._under_way = self._to_resume = self._scaled = False
        self._found: Named | None = None  # what the fit that ends has found important
        self._tracked: dict[str, nn.Parameter] = {}
        self._frozen: dict[str, nn.Parameter] = {}  # which another callback may free
        self._kept: tuple[Named, Named] = {}, {}  # gradients and weights before a step, always in the same memory
        self._pending: list[tuple[dict[str, nn.Parameter], list[Tensor], list[Tensor]]] = []

    @abstractmethod
    def begin(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Named]:
        """Return the sums that parameters begin with when a fit begins to train them; ``work`` is one of them."""

    @abstractmethod
    def gather(self, names: list[str], gradients: list[Tensor], work: list[Tensor]) -> None:
        r"""Add one step to the sums.

        Args:
            names: Of the parameters that had a gradient.
            gradients: :math:`g` of each, to change in place if that is of use.
            work: :math:`-g \Delta\theta` of each: by how much the move made the loss smaller, to first order.
        """

    @abstractmethod
    def importances(self, parameters: Mapping[str, nn.Parameter]) -> Named:
        """Return the importances of the fit that ends, and leave in the sums what the next one needs."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        selected = select_parameters(pl_module, self.patterns)
        resumes = self._to_resume and trainer.ckpt_path is not None
        begun = self.sums.get("work", {}) if resumes else {}
        self._tracked = {n: p for n, p in selected.items() if (n in begun if resumes else p.requires_grad)}
        self._frozen = {name: p for name, p in selected.items() if name not in self._tracked}
        self._kept = _blank(self._tracked), _blank(self._tracked)
        self._under_way = resumes or not trainer.fit_loop.skip  # a fit of no steps has nothing to gather
        if self._under_way and not resumes:
            self.sums = self.begin(self._tracked)
        of = {name: p.device for name, p in selected.items()}
        self.sums = {sort: {n: value.to(of[n]) for n, value in sums.items()} for sort, sums in self.sums.items()}
        self._to_resume, self._pending = False, []
        self._scaled = getattr(trainer.precision_plugin, "scaler", None) is not None

    def _track(self, optimizer: Optimizer) -> None:
        """Begin to track what was frozen until now."""
        freed = {n: p for n, p in among(self._frozen, stepped(optimizer)).items() if p.grad is not None}
        if freed:
            self._frozen = {name: p for name, p in self._frozen.items() if name not in freed}
            self._tracked |= freed
            self.sums = {sort: {**self.sums.get(sort, {}), **new} for sort, new in self.begin(freed).items()}
            for kept in self._kept:
                kept.update(_blank(freed))

    @override
    @torch.no_grad()
    def edit(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._settle()
        self._track(optimizer)
        mine = {n: p for n, p in among(self._tracked, stepped(optimizer)).items() if p.grad is not None}
        if mine:
            gradients, before = ([kept[name] for name in mine] for kept in self._kept)
            torch._foreach_copy_(gradients, [p.grad for p in mine.values() if p.grad is not None])
            torch._foreach_copy_(before, list(mine.values()))
            self._pending.append((mine, gradients, before))
        super().edit(trainer, pl_module, optimizer)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._settle()

    @torch.no_grad()
    def _settle(self) -> None:
        """See what the last steps have moved."""
        for parameters, gradients, before in self._pending:
            # A scaler does not step with what is not finite; without one, training itself is lost.
            if not self._scaled or bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all()):
                torch._foreach_sub_(before, list(parameters.values()))
                torch._foreach_mul_(before, gradients)
                self.gather(list(parameters), gradients, before)
        self._pending = []

    @override
    @torch.no_grad()
    def before_settling(self, pl_module: LightningModule) -> None:
        """Look back on the way that training went, before the weights are moved elsewhere."""
        if self._under_way:
            self._found, self._under_way = self.importances(self._tracked), False

    @override
    @torch.no_grad()
    @on_device_of_training
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        settle_weights(trainer, pl_module)
        if self._found is not None:
            self.consolidate(pl_module, self._found)
        self._found = None

    @override
    def release(self, pl_module: LightningModule) -> None:
        super().release(pl_module)
        self._tracked, self._frozen, self._kept, self._pending = {}, {}, ({}, {}), []
        self._found = None

    @override
    def state_dict(self) -> dict[str, Any]:
        gathered = {"sums": self.sums, "under_way": self._under_way or self._to_resume}
        return {**super().state_dict(), **gathered} if self.sums or self.importance else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.sums, self._to_resume = dict(state_dict.get("sums", {})), state_dict.get("under_way", False)


def _blank(parameters: Mapping[str, nn.Parameter]) -> Named:
    return {name: torch.empty_like(p) for name, p in parameters.items()}
