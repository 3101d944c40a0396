"""L2-SP: hold the weights near those of the source task."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lit_continual.methods.bases.anchor import fit_anchor, select_parameters, snapshot
from lit_continual.methods.bases.final_weights import settle_weights
from lit_continual.methods.bases.fit.after_training import on_device_of_training
from lit_continual.methods.bases.fit.evaluated_layers import EvaluatedLayers
from lit_continual.methods.bases.gradient_edit import GradientEdit
from lit_continual.methods.l2sp.anchor import layer_distances, normalisations, read_anchor
from lit_continual.methods.l2sp.pull import Pull, require_rates, warn_of_optimizers


class L2SP(GradientEdit):
    r"""Pull parameters to an anchor with :math:`\lambda \lVert \theta - \bar\theta \rVert^2`, on any LightningModule.

    Once per optimizer step, after accumulation and unscaling and before clipping, the gradient
    :math:`2\lambda(\theta - \bar\theta)` joins the others; or, decoupled from them, the proximal step follows that of
    the optimizer. Explicit steps diverge under SGD once :math:`\eta\lambda > 1` and under Adam hardly depend on
    :math:`\lambda`; the proximal one knows neither trouble. Running statistics are never pulled, and follow the new
    images unless ``hold_statistics`` says otherwise. Weight decay pulls to 0 instead of the anchor: give anchored
    parameters a group without it.

    Args:
        strength: :math:`\lambda`, without a ½, not negative; or a mapping epoch -> :math:`\lambda`, each in force
            until the next and the first from epoch 0.
        parameters: Which to anchor: globs for a run of components of the dotted name, such as ``encoder``,
            ``encoder.*.weight`` or ``*``.
        anchor: ``start``, the weights when a fit starts; ``last_fit``, those the last fit left, with no pull before
            there are any nor on parameters new since; or the path of a checkpoint, whose names may have another prefix.
        step: ``explicit`` or ``proximal``.
        decoder_strength: :math:`\lambda` of the pull of all other parameters to zero, Li et al.'s :math:`\beta/2`.
        name: Tells this instance from others of its class, in the logs and in checkpoints.
        hold_statistics: Keep the running statistics of the batch normalisations that have an anchored parameter, which
            then normalise by them in training too. Without it even weights that are held answer old images otherwise.
        log_layers: Log how far each layer has moved too, not only all together.

    Raises:
        ValueError: If an argument is out of range, or the anchor file is missing, of other names or of other shapes.
        MisconfigurationException: If nothing matches ``parameters``, if an explicit step would meet the scaled
            gradients of a fused optimizer, and under strategies that shard the module or drop its processes.

    Logs ``train/<name>``, the penalty, at every optimizer step; every epoch ``train/<name>_distance``, the norm of
    :math:`\theta - \bar\theta`, and with ``log_layers`` ``train/<name>_distance/<layer>``.

    References:
        Sagie, Greenspan and Goldberger. Transfer Learning via Parameter Regularization for Medical Image
        Segmentation. Eq. 2.

    Example:
        >>> callback = L2SP(strength=8.0, parameters="encoder", anchor="start")
    """

    instead = "`step='proximal'`"

    def __init__(
        self,
        strength: float | dict[int, float] = 8.0,
        parameters: str | Sequence[str] = "encoder",
        anchor: str = "start",
        step: Literal["explicit", "proximal"] = "explicit",
        decoder_strength: float = 0.0,
        name: str = "l2sp",
        hold_statistics: bool = False,
        log_layers: bool = False,
    ) -> None:
        super().__init__()
        schedule = dict(strength) if isinstance(strength, Mapping) else {0: strength}
        if not all(0 <= value < float("inf") for value in [*schedule.values(), decoder_strength]):
            raise ValueError(
                "`strength` and `decoder_strength` must be 0 or more and finite, got"
                f" {strength} and {decoder_strength}."
            )
        if min(schedule, default=-1) != 0:
            raise ValueError(f"`strength` must say what holds from epoch 0 on, got {strength}: add the key 0.")
        if step not in ("explicit", "proximal"):
            raise ValueError(f"`step` must be 'explicit' or 'proximal', got '{step}'.")
        self.schedule, self.anchor, self.step = schedule, anchor, step
        self.patterns = [parameters] if isinstance(parameters, str) else list(parameters)
        self.decoder_strength, self.name, self.hold_statistics = decoder_strength, name, hold_statistics
        self.log_layers = log_layers
        self._anchor: dict[str, Tensor] = {}
        self._frozen: dict[str, nn.Parameter] = {}
        self._rest: dict[str, nn.Parameter] = {}
        self._handles: list[RemovableHandle] = []
        self._norms = EvaluatedLayers()  # whose statistics are held

    @property
    @override
    def remembers(self) -> bool:
        return self.anchor == "last_fit"

    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        """Check, before a fit, that there is what is to be held, and an anchor of it."""
        selected = select_parameters(pl_module, self.patterns)
        if self.anchor not in ("start", "last_fit"):
            read_anchor(self.anchor, selected)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not self.remembers:
            self._anchor = {}  # a checkpoint that is resumed from is loaded after this, and brings its own

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        selected = select_parameters(pl_module, self.patterns)
        if not self._anchor and self.anchor != "last_fit":
            self._anchor = snapshot(selected) if self.anchor == "start" else read_anchor(self.anchor, selected)
        self._anchor = fit_anchor(self._anchor, selected)
        self._frozen = {name: p for name, p in selected.items() if name in self._anchor}
        self._rest = {name: p for name, p in pl_module.named_parameters() if name not in selected}
        if self.decoder_strength and not self._rest:
            raise MisconfigurationException(
                f"`decoder_strength={self.decoder_strength}` pulls what `parameters={self.patterns}` leaves, which is"
                f" nothing of {type(pl_module).__name__}: narrow `parameters`, or set `decoder_strength=0`."
            )
        if self.hold_statistics:
            self._norms = EvaluatedLayers(normalisations(pl_module, self._frozen))
        if self.step == "explicit":
            super().on_fit_start(trainer, pl_module)
        else:
            require_rates({**self._frozen, **(self._rest if self.decoder_strength else {})}, trainer.optimizers)
            hook = partial(self._step_proximally, trainer)
            self._handles = [optimizer.register_step_post_hook(hook) for optimizer in trainer.optimizers]
        warn_of_optimizers(
            self._frozen, trainer.optimizers, max(self.schedule.values()) if self.step == "explicit" else 0.0
        )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._norms.evaluate()  # a hook of the module may have put all of it in training, such as after a validation

    @override
    def edit(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        stepped = optimizer if self.step == "explicit" else None
        if penalties := [pull.penalty(explicit_step_of=stepped) for pull in self._pulls(trainer)]:
            pl_module.log(f"train/{self.name}", torch.stack(penalties).sum())

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._frozen:
            distances = layer_distances(self._frozen, self._anchor)
            logs = {f"train/{self.name}_distance": torch.stack(list(distances.values())).norm()}
            if self.log_layers:
                logs |= {f"train/{self.name}_distance/{layer}": distance for layer, distance in distances.items()}
            pl_module.log_dict(logs, batch_size=1, sync_dist=True)

    @override
    @on_device_of_training
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        settle_weights(trainer, pl_module)
        selected = select_parameters(pl_module, self.patterns)
        self._anchor = snapshot(selected) if self.remembers else {}  # any other is taken anew, and is no memory

    @override
    def release(self, pl_module: LightningModule) -> None:
        super().release(pl_module)
        for handle in self._handles:
            handle.remove()
        self._norms.release(pl_module.training)
        self._handles, self._frozen, self._rest, self._norms = [], {}, {}, EvaluatedLayers()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"anchor": self._anchor} if self._anchor else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._anchor = dict(state_dict.get("anchor", {}))

    def _pulls(self, trainer: Trainer) -> Iterator[Pull]:
        if self._frozen:
            strength = self.schedule[max(epoch for epoch in self.schedule if epoch <= trainer.current_epoch)]
            yield Pull(self._frozen, self._anchor, strength)
        if self.decoder_strength:
            zeros = {name: p.new_zeros(()).expand_as(p) for name, p in self._rest.items()}
            yield Pull(self._rest, zeros, self.decoder_strength)

    def _step_proximally(self, trainer: Trainer, optimizer: Optimizer, *args: Any) -> None:
        for pull in self._pulls(trainer):
            pull.step_proximally(optimizer)
