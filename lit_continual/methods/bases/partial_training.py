"""Train a part of a network, and keep the rest as it was to the last bit."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from typing_extensions import override

from lit_continual.methods.bases.fit.after_training import on_device_of_training
from lit_continual.methods.bases.fit.evaluated_layers import EvaluatedLayers
from lit_continual.methods.bases.fit.frozen_entries import FrozenEntries, free_share, learnt_values
from lit_continual.methods.bases.fit.hook_of_this_fit import HookOfThisFit
from lit_continual.methods.bases.fit.replaced_method import ReplacedMethod
from lit_continual.methods.bases.fit_memory import FitMemory
from lit_continual.methods.bases.guards import (
    require_batches,
    require_eager,
    require_persistent_replicas,
    require_whole_weights,
)
from lit_continual.methods.bases.names import similar_names
from lit_continual.methods.bases.releasing import Releasing


class PartialTraining(Releasing, FitMemory):
    """Base of callbacks that choose, when a fit starts, what it may move.

    All else stays bit-identical, whatever the optimizer, its weight decay and its state do, and its gradients are 0
    before clipping. So do running statistics and all other buffers that a checkpoint has. A resumed fit goes on with
    its masks. A subclass writes :meth:`choose_masks`.

    Args:
        network: The submodule to protect; by default all of the module.
        after: Fits to leave alone at first: 1 in a stream whose first experience trains from random weights. A stream
            that starts from a checkpoint has one behind it.
        hold_statistics: Let held channels of a batch normalisation normalise by their running statistics, which are
            held, in training too. Without it they normalise by the batch while the rest learns, and otherwise after.

    Raises:
        ValueError: If ``after`` is negative, and, when a fit starts, if a resumed fit's masks are another network's.

    Logs ``train/free_share``, the share of the parameters that is free, each epoch.
    """

    knows_weights = True  # by their names

    def __init__(self, network: str | None = None, after: int = 0, hold_statistics: bool = False) -> None:
        if after < 0:
            raise ValueError(f"`after` must not be negative, got {after}: it counts fits.")
        self.network, self.after, self.hold_statistics = network, after, hold_statistics
        #: For each parameter and persistent buffer of the network, where it is free in this fit, or was in the last.
        self.masks: dict[str, Tensor] = {}
        #: Weights whose layers' outputs pass gradients back through free channels only.
        self.guarded: list[str] = []
        self._fits = 0  # that the network has behind it
        self._known: list[str] = []  # names that the last fit left
        self._under_way, self._to_resume = False, False
        self._frozen, self._hooks, self._share = FrozenEntries(nn.Module(), {}), list[Any](), 1.0
        self._evaluated = EvaluatedLayers()  # normalisations that are held whole
        self._clipping: ReplacedMethod | None = None

    #: What a user can do where nothing is free.
    how_to_free = "let `choose_masks` free more"

    @abstractmethod
    def choose_masks(self, network: nn.Module, pl_module: LightningModule, fresh: set[str]) -> Mapping[str, Tensor]:
        """Where each of ``learnt_values(network)`` is free, as masks that broadcast against it.

        Args:
            network: What is protected.
            pl_module: The module that it is a part of.
            fresh: Names of parameters that the last fit did not have, such as those of a new head.
        """

    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        """Check, before a fit, that a module has what the arguments name."""
        network = self._find(pl_module)
        if self._fits >= self.after:
            self.require_named(network)

    def require_named(self, network: nn.Module) -> None:  # most name nothing in the network
        """Raise a ``ValueError`` if a network has not what the arguments name in it."""

    def follow(self, pl_module: LightningModule) -> None:
        """Take the module as what a fit has left, be it one that this callback did not see."""
        self._fits, self._known = self._fits + 1, list(learnt_values(self._find(pl_module)))

    @property
    @override
    def state_key(self) -> str:
        return f"{type(self).__qualname__}[{self.network or ''}]"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            require_batches(pl_module, self)
            require_whole_weights(trainer, self)
            require_persistent_replicas(trainer, self)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = self._find(pl_module)
        names = learnt_values(network).keys()
        if not (self._to_resume and trainer.ckpt_path is not None):
            waits = self._fits < self.after
            fresh, self.guarded = names - set(self._known) if self._known else set[str](), []
            free = dict.fromkeys(names, torch.tensor(True)) if waits else self.choose_masks(network, pl_module, fresh)
            self.masks = dict(free)
        self._to_resume, self._under_way = False, True
        self._frozen, self._share = FrozenEntries(network, self.masks), free_share(network, self.masks)
        if self._share == 0:
            rank_zero_warn(
                f"`{type(self).__name__}` frees no parameter of {type(network).__name__} in this fit, which trains"
                f" nothing of it: {self.how_to_free}."
            )
        # Right after the step, which moves even what has no gradient: other callbacks, such as averages of the
        # weights, must not see it moved.
        self._hooks = [
            o.register_step_post_hook(lambda *_: self._frozen.restore_parameters()) for o in trainer.optimizers
        ]
        self._clipping = ReplacedMethod(pl_module, "configure_gradient_clipping", self._clear_and_clip)
        if self.hold_statistics:
            self._hold_statistics(network, pl_module)
        if self.guarded:
            require_eager(pl_module, "`gradient='activation'`")
        for name in self.guarded:
            layer = network.get_submodule(name.rpartition(".")[0])
            self._hooks.append(layer.register_forward_hook(HookOfThisFit(_mask_backward, self.masks[name])))

    def clear_gradients(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
        """Set gradients, of a loss beside that of the module, to 0 in place where a fit holds their parameters."""
        self._frozen.clear_gradients({id(p): g for p, g in zip(parameters, gradients, strict=True)})

    def _clear_and_clip(self, clip: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._frozen.clear_gradients()  # callbacks that edit gradients may have given new ones to what is held
        return clip(*args, **kwargs)

    def _hold_statistics(self, network: nn.Module, pl_module: LightningModule) -> None:
        whole = []
        for name, layer in network.named_modules():
            mean = getattr(layer, "running_mean", None)
            if mean is not None and f"{name}.running_mean" in self.masks:
                free = self.masks[f"{name}.running_mean"].to(mean.device).expand_as(mean)
                if not free.any():
                    whole.append(layer)
                elif not free.all():
                    require_eager(pl_module, "`hold_statistics` of a part of a batch normalisation's channels")
                    statistics = mean.clone(), layer.running_var.clone()
                    self._hooks.append(layer.register_forward_hook(HookOfThisFit(_normalise_frozen, statistics, free)))
        self._evaluated = EvaluatedLayers(whole)

    def _find(self, pl_module: LightningModule) -> nn.Module:
        network = dict(pl_module.named_modules()).get(self.network) if self.network else pl_module
        if network is None:
            names = [name for name, _ in pl_module.named_modules() if name]
            raise ValueError(
                f"`network` of {type(self).__name__} is {self.network!r}, and {type(pl_module).__name__} has no such"
                f" submodule. The most like it at any depth are {similar_names(str(self.network), names)}."
            )
        return getattr(network, "_orig_mod", network)  # what `torch.compile` wraps

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("train/free_share", self._share)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._frozen.restore_buffers()  # which a hook of the module may have moved after the last batch
        self._evaluated.evaluate()  # or put in training

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._frozen.restore_buffers()

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._frozen.restore_buffers()  # they moved in the forward pass
        if not pl_module.automatic_optimization:
            self._frozen.clear_gradients()  # the module may clip before it steps

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._frozen.clear_gradients()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._frozen.restore_buffers()  # a step without a loss has no backward

    @override
    @on_device_of_training
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # An average of equal weights, copied back when training ends, is off by a bit.
        self._frozen.restore_parameters()
        self._frozen.restore_buffers()
        self._under_way = False
        self.follow(pl_module)

    @override
    def release(self, pl_module: LightningModule) -> None:
        for hook in self._hooks:
            hook.remove()
        self._evaluated.release(pl_module.training)
        if self._clipping is not None:
            self._clipping.remove()
        self._hooks, self._evaluated, self._clipping = [], EvaluatedLayers(), None
        self._frozen = FrozenEntries(nn.Module(), {})

    @override
    def state_dict(self) -> dict[str, Any]:
        progress = {"fits": self._fits, "under_way": self._under_way or self._to_resume, "known": self._known}
        return {"masks": self.masks, "guarded": self.guarded, **progress}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.masks, self.guarded, self._known = state_dict["masks"], state_dict["guarded"], state_dict["known"]
        self._fits, self._to_resume = state_dict["fits"], state_dict["under_way"]


def _normalise_frozen(
    statistics: tuple[Tensor, Tensor], free: Tensor, layer: Any, args: tuple[Tensor], output: Tensor
) -> Tensor:
    if not layer.training:
        return output
    held = batch_norm(args[0], *statistics, layer.weight, layer.bias, training=False, eps=layer.eps)
    return torch.where(free.view(-1, *(1,) * (output.ndim - 2)), output, held.to(output.dtype))


def _mask_backward(free: Tensor, module: nn.Module, args: Any, output: Tensor) -> None:
    if output.requires_grad:
        mask = free.flatten().to(output.device).view(-1, *(1,) * (output.ndim - 2))
        output.register_hook(lambda gradient: gradient * mask)
