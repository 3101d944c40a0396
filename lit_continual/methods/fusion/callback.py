"""Weight fusion: what a fit leaves is a mean of the old network and the new one."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.files.whole_files import in_one_line
from lit_continual.methods.bases.early_layers import make_layers
from lit_continual.methods.bases.final_weights import FinalWeights, settle_weights
from lit_continual.methods.bases.fit.after_training import on_device_of_training
from lit_continual.methods.bases.fit.training_batches import training_batches
from lit_continual.methods.bases.named_method import NamedMethod
from lit_continual.methods.fusion.fuse import beginning, fuse_weights, require_share
from lit_continual.methods.fusion.statistics import batch_norms, measure_statistics


class WeightFusion(NamedMethod, FinalWeights):
    r"""Interpolate, when a fit ends, between the weights that it began with and those that it found.

    .. math:: \theta = (1 - \alpha)\,\theta_\text{old} + \alpha\,\theta_\text{new}

    for the parameters that the old network has; those of a new head are the new network's, as are new rows of a tensor
    that has grown. The running statistics of batch normalisations are those of neither network, and are measured anew;
    all other buffers are the new network's. The fit itself is that of the module: its losses, its validation and the
    checkpoints that it writes know nothing of the fusion. What is saved after the fit is fused, such as the
    ``model.ckpt`` of a stream.

    Args:
        share: :math:`\alpha`, share of the new network, in [0, 1]; or ``"class_count"`` for
            :math:`\sqrt{N_\text{new} / (N_\text{old} + N_\text{new})}`, with the numbers of classes, without
            backgrounds, that the module had before the fit and has got in it.
        old: ``"last_fit"`` for what the last fit left, so that the first fit is not fused; ``"start"`` for the module
            as this fit finds it, such as one that was trained elsewhere.
        statistics: ``measured`` for running statistics of batch normalisations that are means over an epoch of
            training batches, in which a copy of the fused network makes training steps without a gradient; ``fused``
            for a mean like that of the weights, which costs nothing and is right behind a first layer alone. Statistics
            that the fit has not moved stay in both.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If an argument is out of range, or, when a fit starts, a tensor of the old network is gone or has
            become smaller.
        MisconfigurationException: If classes are to be counted and the module has neither ``classes`` nor
            ``head_channels``, or a fit brings no new one; under manual optimization or, in the first batch, if that
            fails, where statistics are to be measured; and under strategies that shard the module or drop its
            processes.

    Logs ``train/<name>_share``, :math:`\alpha`, at each epoch of a fit that will be fused.

    References:
        Wortsman et al. Robust fine-tuning of zero-shot models (WiSE-FT). CVPR 2022, eq. 1.
        Xiao et al. Endpoints weight fusion for class incremental semantic segmentation (EWF). CVPR 2023.

    Example:
        >>> callback = WeightFusion(share=0.5, old="start")
    """

    knows_weights = True

    def __init__(
        self,
        share: float | Literal["class_count"] = 0.5,
        old: Literal["last_fit", "start"] = "last_fit",
        statistics: Literal["measured", "fused"] = "measured",
        name: str = "fusion",
    ) -> None:
        if not isinstance(share, str):
            require_share(share)
        elif share != "class_count":
            raise ValueError(f"`share` must be a number in [0, 1] or 'class_count', got {share!r}.")
        if old not in ("last_fit", "start"):
            raise ValueError(f"`old` must be 'last_fit' or 'start', got {old!r}.")
        if statistics not in ("measured", "fused"):
            raise ValueError(f"`statistics` must be 'measured' or 'fused', got {statistics!r}.")
        self.share, self.old, self.statistics, self.name = share, old, statistics, name
        self._known: dict[str, list[int]] = {}  # shapes of the old network; none without one
        self._classes: int | None = None  # of the old network
        self._old: dict[str, Tensor] = {}  # its weights, during a fit
        self._share = 1.0  # of this fit
        self._measures = False  # the statistics of this fit
        self._to_try = False  # to do so, which this fit has not yet
        #: Whether the caller knows that another fit follows the first, as a stream does.
        self.fits_follow = False

    @property
    @override
    def remembers(self) -> bool:
        return self.old == "last_fit"

    def follow(self, pl_module: LightningModule) -> None:
        """Take the module as the old network, be it of a fit that this callback did not see."""
        self._known = {name: list(value.shape) for name, value in _fusible(pl_module).items()}
        self._classes = _count(pl_module)

    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        """Check, before a fit, that the classes of a module, which has grown for it, can be counted, and are more."""
        self._require_counted(pl_module)
        if self._known:
            self._share_of(pl_module)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._require_counted(pl_module)
            if self.old == "start":
                make_layers(trainer, pl_module, self)
                self.follow(pl_module)  # before the module's own setup, where heads grow

    def _require_counted(self, module: LightningModule) -> None:
        if self.share == "class_count" and _count(module) is None:
            raise MisconfigurationException(
                f"`share='class_count'` counts classes, and `{type(module).__name__}` has neither `classes` nor"
                " `head_channels`. Give the module one of them, or a number as `share`."
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._known:
            if not self.fits_follow:
                rank_zero_warn(
                    "`WeightFusion` has no old network in this fit, which ends as it would without: the first fit of a"
                    " callback makes the old network of its next. If it is the only one, set `old='start'`."
                )
            return
        self._share = self._share_of(pl_module)
        if not self._old or trainer.ckpt_path is None:  # a fit that is resumed has brought its own
            values = _fusible(pl_module)
            found = {name: beginning(values[name], shape, name) for name, shape in self._known.items()}
            self._old = {name: value.detach().cpu().clone() for name, value in found.items()}
        self._measures = self._share < 1 and self.statistics == "measured"
        self._to_try = self._measures and bool(batch_norms(pl_module))
        if self._to_try and not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "`WeightFusion` measures the statistics of batch normalisations by `training_step`, which under manual"
                " optimization steps its optimizers. Set `statistics='fused'`."
            )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._to_try:  # before training, and not when it has ended
            self._to_try = False
            try:
                measure_statistics(trainer, pl_module, (), [batch])
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of somebody's module, which may raise anything
                raise MisconfigurationException(
                    f"`WeightFusion` could not measure statistics by the training step of a copy of"
                    f" {type(pl_module).__name__} ({type(error).__name__}: {in_one_line(error)}). Set"
                    " `statistics='fused'`."
                ) from error

    def _share_of(self, pl_module: LightningModule) -> float:
        if not isinstance(self.share, str):
            return self.share
        count, before = _count(pl_module) or 0, self._classes or 0
        if count <= before:
            raise MisconfigurationException(
                f"`share='class_count'` has no value in a fit without a new class: `{type(pl_module).__name__}` had"
                f" {before} and has {count}. Give a number as `share`."
            )
        return math.sqrt((count - before) / count)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._old:
            pl_module.log(f"train/{self.name}_share", self._share, batch_size=1, sync_dist=True)

    @override
    @torch.no_grad()
    def settle(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fuse, once a fit."""
        if not self._old:
            return
        values = _fusible(pl_module)
        moved = self._moved(values, batch_norms(pl_module)) if self._measures else []
        for name, value in fuse_weights(self._old, values, self._share).items():
            values[name].copy_(value)
        self._old = {}
        if moved and trainer.train_dataloader is not None:  # there is none in a fit of no steps
            measure_statistics(trainer, pl_module, moved, training_batches(trainer))

    def _moved(self, values: dict[str, Tensor], layers: Iterable[str]) -> list[str]:
        """Those of some batch normalisations whose statistics the fit has moved, or which are new."""
        means = {name: f"{name}.running_mean" for name in layers}
        return [
            n for n, mean in means.items() if mean not in self._old or not self._old[mean].equal(values[mean].cpu())
        ]

    @override
    @on_device_of_training
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not before: averages of the weights are copied back when training ends.
        settle_weights(trainer, pl_module)
        self.follow(pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"known": self._known, "classes": self._classes, "old": self._old}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._known, self._classes, self._old = state_dict["known"], state_dict["classes"], state_dict["old"]


def _fusible(module: nn.Module) -> dict[str, Tensor]:
    """The live parameters and running statistics of a module by name."""
    statistics = {
        name: value
        for name, value in module.named_buffers()
        if name.rpartition(".")[2] in ("running_mean", "running_var")
    }
    return {**dict(module.named_parameters()), **statistics}


def _count(module: Any) -> int | None:
    """How many classes a module has, without backgrounds; ``None`` if it does not say."""
    if (classes := getattr(module, "classes", None)) is not None:
        return len(classes)
    heads = getattr(module, "head_channels", None)
    return None if heads is None else sum(len(head) - 1 for head in heads)
