"""Targeted gradient descent: retrain the kernels that the network can spare, and no others."""

from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from typing_extensions import override

from lit_continual.callbacks.guards import require_persistent_replicas
from lit_continual.callbacks.held_entries import HeldEntries
from lit_continual.networks import find_producers, free_share, kernel_scores, learnt_values, threshold_for_share


class TargetedGradientDescent(Callback):
    r"""Keep the useful kernels of a network bit-identical through ``fit`` and retrain the redundant ones.

    Kernel :math:`n` is trained if, and only if, :math:`\mathrm{KSE}(Y_n) < \phi` for every convolution that reads the
    feature map :math:`Y_n` it makes, with its bias and its normalisation. All else stays as it was when the fit began,
    whatever the optimizer, its weight decay and its state do: the last convolution, what cannot be followed, and the
    running statistics of held channels. Their gradients are 0 before clipping. Each new ``fit`` scores the network
    anew (TGDⁿ) and leaves free the parameters that the last one did not have, such as a new head; a resumed one goes
    on with its masks.

    Args:
        phi: :math:`\phi` in [0, 1]; 0.3 as in the paper if ``share`` is not given either.
        share: Choose the smallest :math:`\phi` that frees this share of the parameters instead.
        gradient: ``"parameter"`` masks the gradients of the parameters. ``"activation"`` reads eq. 4 to the letter and
            also masks what flows back through each scored convolution and its normalisation, so that layers before
            it learn through its free channels only.
        k: Nearest neighbours in the kernels' entropy.
        alpha: :math:`\alpha`, the weight of the entropy.
        network: The submodule to protect; by default all of the module, which ``example_input_array`` helps to trace.
        after: Fits to leave alone at first: 1 in a stream whose first experience trains from random weights.

    Raises:
        ValueError: If an argument is out of range, if both ``phi`` and ``share`` are given, and, when a fit starts, if
            the network cannot be traced, ``share`` cannot be had, or a resumed fit's masks belong to another network.

    Logs ``train/free_share``, the share of the parameters that is free, each epoch.

    References:
        Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, eq. 4.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[TargetedGradientDescent(phi=0.3)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        phi: float | None = None,
        share: float | None = None,
        gradient: Literal["parameter", "activation"] = "parameter",
        k: int = 5,
        alpha: float = 1.0,
        network: str | None = None,
        after: int = 0,
    ) -> None:
        if phi is not None and share is not None:
            raise ValueError(f"Give `phi` or `share`, not both: got {phi} and {share}.")
        for name, value in (("phi", phi), ("share", share)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")
        if after < 0:
            raise ValueError(f"`after` must not be negative, got {after}: it counts fits.")
        if gradient not in ("parameter", "activation"):
            raise ValueError(f"`gradient` must be 'parameter' or 'activation', got {gradient!r}.")
        self.phi = 0.3 if phi is None else phi
        self.share, self.gradient, self.k, self.alpha, self.network, self.after = (
            share,
            gradient,
            k,
            alpha,
            network,
            after,
        )
        #: For each parameter and running statistic of the network, where it is free in this fit, or was in the last.
        self.masks: dict[str, Tensor] = {}
        self._scored: list[str] = []  # weights behind which the paper puts a TGD layer
        self._known: list[str] = []  # names that the last fit left
        self._fits, self._under_way, self._to_resume = 0, False, False
        self._held, self._hooks, self._share = HeldEntries(nn.Module(), {}), list[Any](), 1.0

    @property
    @override
    def state_key(self) -> str:
        return f"{type(self).__qualname__}[{self.network or ''}]"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            require_persistent_replicas(trainer, self)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = self._find(pl_module)
        if not (self._to_resume and trainer.ckpt_path is not None):
            self._choose_masks(network, pl_module)
        self._to_resume, self._under_way = False, True
        self._held = HeldEntries(network, self.masks)
        self._share = free_share(network, self.masks)
        # Right after the step, which moves even what has no gradient: other callbacks, such as averages of the
        # weights, must not see it moved.
        self._hooks = [
            o.register_step_post_hook(lambda *_: self._held.restore_parameters()) for o in trainer.optimizers
        ]
        if self.gradient == "activation":
            for name in self._scored:
                layer = network.get_submodule(name.rpartition(".")[0])
                self._hooks.append(layer.register_forward_hook(partial(_mask_backward, self.masks[name])))

    def _find(self, pl_module: LightningModule) -> nn.Module:
        network = pl_module.get_submodule(self.network) if self.network else pl_module
        return getattr(network, "_orig_mod", network)  # what `torch.compile` wraps

    def _choose_masks(self, network: nn.Module, pl_module: LightningModule) -> None:
        names = learnt_values(network).keys()
        if self._fits < self.after:
            self.masks, self._scored = {name: torch.tensor(True) for name in names}, []
            return
        example = tree_map_only(Tensor, lambda value: value.to(pl_module.device), pl_module.example_input_array)
        producers = find_producers(network, example)
        fresh = names - set(self._known) if self._known else set[str]()
        scores = kernel_scores(network, producers, self.k, self.alpha, fresh)
        if self.share is not None:
            self.phi = threshold_for_share(network, scores, self.share)
        self.masks = {name: score < self.phi for name, score in scores.items()}
        judged = producers.layers.keys() | producers.affine.keys()
        self._scored = sorted(n for n in judged if n.endswith("weight") and bool(scores[n].isfinite().any()))
        freed = f"phi = {self.phi:.4g} frees {free_share(network, self.masks):.1%} of the parameters."
        for line in [freed, *producers.notes]:
            rank_zero_info(f"{type(self).__name__}: {line}")

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("train/free_share", self._share)

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._held.restore_buffers()  # they moved in the forward pass
        if not pl_module.automatic_optimization:
            self._held.clear_gradients()  # the module may clip before it steps

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._held.clear_gradients()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._held.restore_buffers()  # a step without a loss has no backward

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._held.restore_parameters()  # an average of equal weights, copied back when training ends, is off by a bit
        self._held.restore_buffers()
        self._known, self._fits, self._under_way = list(learnt_values(self._find(pl_module))), self._fits + 1, False

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._release()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()  # Lightning calls no `teardown` after an exception.

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._held = [], HeldEntries(nn.Module(), {})

    @override
    def state_dict(self) -> dict[str, Any]:
        progress = {"fits": self._fits, "under_way": self._under_way, "known": self._known}
        return {"phi": self.phi, "masks": self.masks, "scored": self._scored, **progress}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.masks, self._scored, self._known = state_dict["masks"], state_dict["scored"], state_dict["known"]
        self._fits, self._to_resume = state_dict["fits"], state_dict["under_way"]
        if self.share is not None or self._to_resume:
            self.phi = state_dict["phi"]


def _mask_backward(free: Tensor, module: nn.Module, args: Any, output: Tensor) -> None:
    if output.requires_grad:
        mask = free.flatten().to(output.device).view(-1, *(1,) * (output.ndim - 2))
        output.register_hook(lambda gradient: gradient * mask)
