"""Targeted gradient descent: retrain the kernels that the network can spare, and no others."""

from collections.abc import Mapping
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.final_weights import settle_weights
from lit_continual.methods.bases.fit.after_training import on_device_of_training
from lit_continual.methods.bases.fit.frozen_entries import free_share
from lit_continual.methods.bases.partial_training import PartialTraining
from lit_continual.methods.tgd.measured_channels import MeasuredChannels, producers_of, random_channels
from lit_continual.methods.tgd.redundancy import kernel_scores, threshold_for_share

SCORES = ("kse", "fisher", "activation_gradient", "random")


class TargetedGradientDescent(PartialTraining):
    r"""Keep the useful kernels of a network bit-identical through ``fit`` and retrain the redundant ones.

    Kernel :math:`n` is trained if, and only if, :math:`\mathrm{KSE}(Y_n) < \phi`, or another ``score``, for every
    convolution that reads the feature map :math:`Y_n` it makes, with its bias and its normalisation. All else stays as
    it was when the fit began, whatever the optimizer, its weight decay and its state do: the last convolution, what
    cannot be followed, and the running statistics of held channels. Their gradients are 0 before clipping. Each new
    ``fit`` scores the network anew (TGDⁿ) and leaves free the parameters that the last one did not have, such as a new
    head; a resumed one goes on with its masks.

    Args:
        phi: :math:`\phi` in [0, 1]; 0.3 as in the paper if ``share`` is not given either.
        share: Choose the smallest :math:`\phi` that frees this share of the parameters instead.
        gradient: ``"parameter"`` masks the gradients of the parameters. ``"activation"`` reads eq. 4 to the letter and
            also masks what flows back through each scored convolution and its normalisation, so that layers before
            it learn through its free channels only.
        k: Nearest neighbours in the kernels' entropy.
        alpha: :math:`\alpha`, the weight of the entropy.
        network: The submodule to protect; by default all of the module, which ``example_input_array`` helps to trace.
        after: Fits to leave alone at first: 1 in a stream whose first experience trains from random weights. A stream
            that starts from a checkpoint has one behind it.
        hold_statistics: Let held channels of a batch normalisation normalise by their running statistics, which are
            held, in training too. Without it they normalise by the batch while the rest learns, and otherwise after.
        score: What makes an input channel of a convolution useful, in place of KSE: ``"fisher"``, the Fisher
            information of its kernels, or ``"activation_gradient"``, what the loss would change without it, both on
            the training samples when a fit ends, in evaluation mode, and kept as the largest of all fits so far, of the
            largest in the layer; see :func:`~.channel_importance`. They need a fit with this callback before, such as
            with ``after: 1``. ``"random"`` asks nothing. For these three the score is the share of the layer's channels
            that matter less, so that ``phi`` is a quantile, and has the paper's meaning for KSE alone.
        samples: How many training samples to measure; ``None`` for all.
        seed: Seed of the random scores; the number of the fit is added.

    Raises:
        ValueError: If an argument is out of range, if both ``phi`` and ``share`` are given, and, when a fit starts, if
            the network cannot be traced, ``share`` cannot be had, or a resumed fit's masks belong to another network.
        MisconfigurationException: If a score is to be measured under manual optimization, or a sample cannot be, or,
            when a fit starts, none has been.

    Logs ``train/free_share``, the share of the parameters that is free, each epoch.

    References:
        Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, eq. 4.

    Example:
        >>> callback = TargetedGradientDescent(phi=0.3)
    """

    how_to_free = "give a larger `phi`, or a `share`, or name another `network`"

    def __init__(
        self,
        phi: float | None = None,
        share: float | None = None,
        gradient: Literal["parameter", "activation"] = "parameter",
        k: int = 5,
        alpha: float = 1.0,
        network: str | None = None,
        after: int = 0,
        hold_statistics: bool = False,
        score: Literal["kse", "fisher", "activation_gradient", "random"] = "kse",
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, after, hold_statistics)
        if phi is not None and share is not None:
            raise ValueError(f"Give `phi` or `share`, not both: got {phi} and {share}.")
        for name, value in (("phi", phi), ("share", share)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")
        if gradient not in ("parameter", "activation"):
            raise ValueError(f"`gradient` must be 'parameter' or 'activation', got {gradient!r}.")
        if score not in SCORES:
            raise ValueError(f"`score` must be one of {', '.join(SCORES)}, got {score!r}.")
        self.score, self.seed = score, seed
        #: What the data of the fits so far needed, where ``score`` asks for it.
        self.channels: MeasuredChannels | None = None
        if score == "fisher" or score == "activation_gradient":
            self.channels = MeasuredChannels(score, self._find, samples)
        self.phi = 0.3 if phi is None else phi
        self.share, self.gradient, self.k, self.alpha = share, gradient, k, alpha

    @property
    def needs_eager(self) -> bool:
        """Whether it puts hooks on layers, which do not see a compiled network."""
        return self.gradient == "activation" or self.hold_statistics

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.channels is not None and not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"`score='{self.score}'` asks `training_step`, which under manual optimization steps its optimizers."
                f" {self.channels.remedy}"
            )

    @override
    def choose_masks(self, network: nn.Module, pl_module: LightningModule, fresh: set[str]) -> Mapping[str, Tensor]:
        producers = producers_of(network, pl_module)
        channels = self._scores({n: len(layer.inputs) for n, layer in producers.layers.items() if n not in fresh})
        scores = kernel_scores(network, producers, self.k, self.alpha, fresh, channels)
        if self.share is not None:
            self.phi = threshold_for_share(network, scores, self.share)
        masks = {name: score < self.phi for name, score in scores.items()}
        if self.gradient == "activation":  # the paper's layer stands behind every convolution and normalisation
            scored = producers.layers.keys() | producers.affine.keys()
            self.guarded = sorted(n for n in scored if n.endswith("weight") and bool(scores[n].isfinite().any()))
        freed = f"phi = {self.phi:.4g} frees {free_share(network, masks):.1%} of the parameters."
        for line in [freed, *producers.notes]:
            rank_zero_info(f"{type(self).__name__}: {line}")
        return masks

    def _scores(self, sizes: Mapping[str, int]) -> dict[str, Tensor] | None:
        """Scores of the input channels of each convolution; ``None`` for KSE, which the weights say."""
        if self.channels is not None:
            return self.channels.ranks(sizes)
        return random_channels(sizes, self.seed + self._fits) if self.score == "random" else None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self.channels is not None:
            self.channels.mean.begin()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *given: Any) -> None:
        super().on_train_batch_start(trainer, pl_module, *given)
        if self.channels is not None:
            self.channels.mean.try_first(trainer, pl_module, given[0])

    @override
    @on_device_of_training
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_end(trainer, pl_module)
        if self.channels is not None:
            settle_weights(trainer, pl_module)
            self.channels.consolidate(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        known = {} if self.channels is None else {"score": self.score, "importance": self.channels.importance}
        return {"phi": self.phi, **super().state_dict(), **known}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.channels is not None:
            mine = state_dict.get("score") == self.score
            self.channels.importance = dict(state_dict["importance"]) if mine else {}
        if self.share is not None or self._to_resume:
            self.phi = state_dict["phi"]
