"""Steps of optimizers that Lightning does not see."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch.optim import Optimizer


class ManualSteps:
    """Prepare the steps of optimizers that a module under manual optimization takes past Lightning.

    Before the steps of ``self.optimizers()`` Lightning calls ``on_before_optimizer_step``; before those of
    ``self.optimizers(use_pl_optimizer=False)`` it calls nothing.

    Args:
        module: The module; under automatic optimization nothing is done.
        optimizers: Its optimizers.
        prepare: Is called with an optimizer before each step that was not :meth:`prepared`, after what the module has
            clipped itself.
        instead: What a user can do instead where that is too late.

    Raises:
        MisconfigurationException: In a step, if its gradients are only made in a closure.
    """

    def __init__(
        self,
        module: LightningModule | None = None,
        optimizers: Sequence[Optimizer] = (),
        prepare: Callable[[Optimizer], None] = lambda optimizer: None,
        instead: str = "",
    ) -> None:
        self._prepare, self._prepared, self._instead = prepare, set[int](), instead
        manual = optimizers if module is not None and not module.automatic_optimization else ()
        self._hooks = [
            hook
            for o in manual
            for hook in (o.register_step_pre_hook(self._before), o.register_step_post_hook(self._after))
        ]

    def prepared(self, optimizer: Optimizer) -> None:
        """Say that the next step of an optimizer is prepared."""
        self._prepared.add(id(optimizer))

    def remove(self) -> None:
        """Take the hooks off the optimizers."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # behind the optimizer itself
        if closure is None and id(optimizer) not in self._prepared:
            self.prepared(optimizer)
            self._prepare(optimizer)

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        if id(optimizer) not in self._prepared:
            remedies = ", or ".join(filter(None, ["`self.optimizers()`", self._instead]))
            raise MisconfigurationException(
                "A step with a closure, of an optimizer of `self.optimizers(use_pl_optimizer=False)`, makes its"
                f" gradients where no callback can edit them. Use {remedies}."
            )
        self._prepared.discard(id(optimizer))
