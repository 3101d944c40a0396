"""What each optimizer step of a fit was given and did, as a callback sees it."""

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tests.methods.importances import weights


class Spy(Callback):
    """Gradients before any penalty, and weights before and after, of each step; stands first in the list."""

    def __init__(self):
        self.steps: list[dict[str, tuple[Tensor, Tensor, Tensor]]] = []
        self._now = None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}
        self._now = gradients, weights(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        if self._now is not None:
            (gradients, before), after = self._now, weights(pl_module)
            self.steps.append({name: (g, before[name], after[name]) for name, g in gradients.items()})
            self._now = None
