"""A pull of parameters to an anchor, as part of an optimizer step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_continual.methods.bases.gradient_edit import add_gradient, among, has_gradients, stepped
from lit_continual.methods.l2sp.penalty import l2_sp, l2_sp_gradient, l2_sp_proximal_


@dataclass(frozen=True)
class Pull:
    r"""Parameters by name, the anchor :math:`\bar\theta` they are pulled to, and the strength :math:`\lambda`."""

    parameters: Mapping[str, nn.Parameter]
    anchor: Mapping[str, Tensor]
    strength: float

    def penalty(self, explicit_step_of: Optimizer | None = None) -> Tensor:
        """Return the penalty, and let its gradient join those that an optimizer is about to step with."""
        if explicit_step_of is None:
            with torch.no_grad():
                return l2_sp(self.parameters, self.anchor, self.strength)
        penalty, gradient = l2_sp_gradient(self.parameters, self.anchor, self.strength)
        if self.strength > 0 and has_gradients(explicit_step_of):
            mine = among(self.parameters, stepped(explicit_step_of))
            add_gradient([(p, gradient[name]) for name, p in mine.items()])
        return penalty

    def step_proximally(self, optimizer: Optimizer) -> None:
        """Move what an optimizer has just stepped towards the anchor."""
        for group in optimizer.param_groups if has_gradients(optimizer) else ():
            mine = among(self.parameters, group["params"])
            if mine:
                l2_sp_proximal_(mine, {name: self.anchor[name] for name in mine}, self.strength, float(group["lr"]))


def require_rates(held: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer]) -> None:
    """Raise ``MisconfigurationException`` if a group of anchored parameters has no learning rate to step by."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            name = next(iter(among(held, group["params"])), None)
            if name and group.get("lr") is None:
                raise MisconfigurationException(
                    f"The proximal step of `L2SP` is as long as the learning rate says, and {type(optimizer).__name__}"
                    f" has none for `{name}`. Set `step='explicit'`, or give the optimizer an `lr`."
                )


def warn_of_optimizers(
    held: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer], explicit_strength: float
) -> None:
    """Warn of weight decay on anchored parameters, and of a learning rate at which the explicit step diverges."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        name = next(iter(among(held, group["params"])), None)
        # Schedules keep their peak in the latter two.
        lr = max(float(group.get(key) or 0) for key in ("lr", "initial_lr", "max_lr"))
        if name and group.get("weight_decay"):
            rank_zero_warn(
                f"The optimizer's weight decay of {group['weight_decay']} pulls `{name}` to 0, where `L2SP` pulls it to"
                " its anchor: give anchored parameters a group of their own with `weight_decay=0`."
            )
        if name and lr * explicit_strength > 1:
            rank_zero_warn(
                f"The explicit step of `L2SP` diverges under plain SGD where learning rate times `strength`, here {lr}"
                f" times {explicit_strength}, exceeds 1: set `step='proximal'`, or lower one of the two."
            )
