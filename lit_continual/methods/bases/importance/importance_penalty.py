"""Base class of the callbacks that hold each weight by how important it was so far."""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lit_continual.methods.bases.anchor import fit_anchor, select_parameters, snapshot
from lit_continual.methods.bases.fit.precision import wide
from lit_continual.methods.bases.gradient_edit import GradientEdit, has_gradients, stepped
from lit_continual.methods.bases.guards import require_real
from lit_continual.methods.bases.importance.held_weights import HeldWeights
from lit_continual.methods.bases.importance.quadratic_penalty import sum_of_penalties


class ImportancePenalty(GradientEdit, ABC):
    r"""Pull parameters to where the last fit left them, each by its importance.

    .. math:: L + \lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2

    Once per optimizer step the gradient of the penalty joins the others: after accumulation, reduction over processes
    and unscaling, and before clipping. A first fit has no penalty, and a parameter that is new since has none. Of a
    parameter that has grown along its first axis, such as a classifier with more classes, the old rows are held and the
    new ones, which come behind them, are free.

    A subclass measures importances and gives them to :meth:`consolidate` when a fit ends.

    Args:
        strength: :math:`\lambda`, not negative.
        decay: :math:`\gamma` in :math:`\Omega \leftarrow \gamma\Omega + \Omega_{new}`, in [0, 1].
        parameters: Which to hold: globs for a run of components of the dotted name, such as ``encoder``.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If an argument is out of range, or, when a fit starts, if a held parameter is gone or has another
            shape and has not grown.
        MisconfigurationException: If nothing matches ``parameters``, if gradients would still be scaled, and under
            strategies that shard the module or drop its processes.

    Logs ``train/<name>``, the penalty, at every optimizer step that has one.
    """

    #: What stands before :math:`\lambda` in the paper's penalty.
    factor = 1.0

    def __init__(self, strength: float, decay: float, parameters: str | Sequence[str], name: str) -> None:
        super().__init__()
        if not 0 <= strength < float("inf"):
            raise ValueError(f"`strength` must be 0 or more and finite, got {strength}.")
        if not 0 <= decay <= 1:
            raise ValueError(f"`decay` must be in [0, 1], got {decay}.")
        self.strength, self.decay, self.name = strength, decay, name
        self.patterns = [parameters] if isinstance(parameters, str) else list(parameters)
        #: :math:`\Omega` by the name of the parameter, as the fits so far have left it.
        self.importance: dict[str, Tensor] = {}
        #: :math:`\theta^*` by the name of the parameter.
        self.anchor: dict[str, Tensor] = {}
        self._constant = 0.0  # of the sum of several penalties
        self._held: HeldWeights | None = None
        self._unmeasured = False  # what an earlier fit has left, and this one will train

    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        """Check, before a fit, that there is what is to be held."""
        self._selected(pl_module)

    def _selected(self, pl_module: LightningModule) -> dict[str, nn.Parameter]:
        selected = select_parameters(pl_module, self.patterns)
        require_real(selected, self, "Name others in `parameters`.")
        return selected

    def follow(self, pl_module: LightningModule) -> None:
        """Note that nothing was measured of a module that a fit has left which this callback did not see."""
        self._unmeasured = True

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        selected = self._selected(pl_module)
        self.anchor = fit_anchor(grown(self.anchor, selected), selected)
        importance = grown(self.importance, selected)
        self.importance = {name: value.to(selected[name].device) for name, value in importance.items()}
        names = [name for name in selected if name in self.importance]  # what is frozen may be freed during the fit
        anchors, importances = ([of[name] for name in names] for of in (self.anchor, self.importance))
        self._held = HeldWeights([selected[name] for name in names], anchors, importances)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # of a fit that has steps
        if self._unmeasured:
            rank_zero_warn(
                f"`{type(self).__name__}` measures what is important when a fit ends, and has measured nothing of the"
                " model that this stream starts from, so this fit is plain training. Take `L2SP` or `Distillation` to"
                " keep what that model knows, or `EWC` or `MAS` behind a first experience of `max_epochs: 0` with data"
                " that it knows."
            )
        self._unmeasured = False

    @override
    def edit(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._held:
            strength = self.factor * self.strength
            pulls = strength > 0 and has_gradients(optimizer)
            total = self._held.pull(stepped(optimizer) if pulls else [], strength)
            pl_module.log(f"train/{self.name}", strength * (total + self._constant))

    def consolidate(self, pl_module: LightningModule, importance: Mapping[str, Tensor], separate: bool = False) -> None:
        r"""Take the weights for the anchor, and add what was important in the fit that ends.

        Args:
            pl_module: What has been trained.
            importance: :math:`\Omega_{new}`, not negative, by the name of the parameter; 0 for those it leaves out.
            separate: Keep the penalty of each fit with the anchor of its own, in place of one with the last anchor.
        """
        selected = select_parameters(pl_module, self.patterns)
        selected = {name: p for name, p in selected.items() if name in importance or name in self.importance}
        anchor, zero = snapshot(selected), {name: torch.zeros_like(p, dtype=wide(p)) for name, p in selected.items()}
        new = {name: importance.get(name, zero[name]).detach() for name in selected}
        old = {name: self.decay * value for name, value in self.importance.items()}
        constant = self.decay * self._constant
        if separate:
            self.anchor, self.importance, added = sum_of_penalties(self.anchor, old, anchor, new)
            self._constant = constant + added
        else:
            self.anchor = anchor
            self.importance = {name: value + old.get(name, 0) for name, value in new.items()}

    @override
    def release(self, pl_module: LightningModule) -> None:
        super().release(pl_module)
        self._held = None

    @override
    def state_dict(self) -> dict[str, Any]:
        held = {"anchor": self.anchor, "importance": self.importance, "constant": self._constant}
        return held if self.importance else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.anchor, self.importance = dict(state_dict.get("anchor", {})), dict(state_dict.get("importance", {}))
        self._constant = state_dict.get("constant", 0.0)


def grown(values: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Fill values up with zeros where a parameter has more rows than they have."""
    found = dict(values)
    for name, value in values.items():
        p = parameters.get(name)
        if p is not None and p.ndim and p.shape[1:] == value.shape[1:] and len(p) > len(value):
            found[name] = torch.cat([value, value.new_zeros(len(p) - len(value), *p.shape[1:])])
    return found
