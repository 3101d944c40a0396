"""Targeted gradient descent: retrain the kernels that the network can spare, and no others."""

from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from typing_extensions import override

from lit_continual.methods.frozen_entries import free_share
from lit_continual.methods.partial_training import PartialTraining
from lit_continual.methods.tgd.producers import find_producers
from lit_continual.methods.tgd.redundancy import kernel_scores, threshold_for_share


class TargetedGradientDescent(PartialTraining):
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
        after: Fits to leave alone at first: 1 in a stream whose first experience trains from random weights. A stream
            that starts from a checkpoint has one behind it.
        hold_statistics: Let held channels of a batch normalisation normalise by their running statistics, which are
            held, in training too. Without it they normalise by the batch while the rest learns, and otherwise after.

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
    ) -> None:
        super().__init__(network, after, hold_statistics)
        if phi is not None and share is not None:
            raise ValueError(f"Give `phi` or `share`, not both: got {phi} and {share}.")
        for name, value in (("phi", phi), ("share", share)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")
        if gradient not in ("parameter", "activation"):
            raise ValueError(f"`gradient` must be 'parameter' or 'activation', got {gradient!r}.")
        self.phi = 0.3 if phi is None else phi
        self.share, self.gradient, self.k, self.alpha = share, gradient, k, alpha

    @property
    def needs_eager(self) -> bool:
        """Whether it puts hooks on layers, which do not see a compiled network."""
        return self.gradient == "activation" or self.hold_statistics

    @override
    def choose_masks(self, network: nn.Module, pl_module: LightningModule, fresh: set[str]) -> Mapping[str, Tensor]:
        example = tree_map_only(Tensor, lambda value: value.to(pl_module.device), pl_module.example_input_array)
        producers = find_producers(network, example)
        scores = kernel_scores(network, producers, self.k, self.alpha, fresh)
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

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"phi": self.phi, **super().state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.share is not None or self._to_resume:
            self.phi = state_dict["phi"]
