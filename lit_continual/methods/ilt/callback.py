"""ILT: features of the encoder stay as the old network's were."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.old_network.feature_term import FeatureTerm
from lit_continual.methods.ilt.loss import normalised_feature_distance


class ILT(FeatureTerm):
    r"""Keep the features of the encoder, by their distance to those of the old network.

    .. math:: L = L_c + \frac{\lambda}{F} \sum_l \frac{1}{P} \sum_p \lVert \hat f_{l,p} - \hat f^*_{l,p} \rVert^2

    :math:`L_c` is the module's own loss, and :math:`\hat f` the features of a position of one of :math:`F` layers,
    divided by their length. The paper has two terms: this one, of the features as they are, and one of the outputs,
    which is :class:`~lit_continual.callbacks.Distillation`. Give both callbacks for the whole method. The features are
    normalised since their scale is arbitrary, as of a network with instance normalisation, and so would be the weight.
    Separate heads and a shared one are served alike.

    Args:
        loss_de: :math:`\lambda`, not negative. The paper's code takes 100 for features that are not normalised.
        layers: Names of the layers whose outputs are features. ``None`` takes the last one where the maps are smallest,
            the end of the encoder.
        teacher: See :class:`~lit_continual.callbacks.Distillation`.
        logits: See :class:`~lit_continual.callbacks.Distillation`.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If ``loss_de`` is out of range, or the teacher cannot be read.
        MisconfigurationException: If the module is compiled or has no such layer; in the first step, if the two
            networks cannot be asked alike or no layer answers with maps.

    Logs ``train/<name>``, the weighted term, at every step with a teacher.

    References:
        Michieli and Zanuttigh. Incremental Learning Techniques for Semantic Segmentation. ICCV Workshops 2019.
        https://arxiv.org/abs/1907.13372

    Example:
        >>> from lit_continual.callbacks import Distillation
        >>> callbacks = [Distillation(), ILT()]
    """

    def __init__(
        self,
        loss_de: float = 1.0,
        layers: Sequence[str] | None = None,
        teacher: str | Path | nn.Module | None = None,
        logits: Callable[..., Any] | None = None,
        name: str = "ilt",
    ) -> None:
        if not 0 <= loss_de < float("inf"):
            raise ValueError(f"`loss_de` must be 0 or more and finite, got {loss_de}.")
        super().__init__(layers, teacher, logits, name)
        self.loss_de = loss_de

    @override
    def choose(self, outputs: Mapping[str, Tensor], logits: Tensor) -> list[str]:
        ends = super().choose(outputs, logits)
        if not ends:
            raise MisconfigurationException(
                "`ILT` finds no layer that answers with maps in this step. Name layers of the encoder in `layers`."
            )
        smallest = min(outputs[name].shape[2:].numel() for name in ends)
        return [name for name in ends if outputs[name].shape[2:].numel() == smallest][-1:]

    @override
    def compute(self, pl_module: LightningModule, batch: Any, outputs: Any) -> Tensor | None:
        self.see_channels(pl_module, outputs)
        if self._teacher is None:
            return None
        student, ask = self.question(pl_module, batch, outputs)
        _, pairs = self.ask_with_features(pl_module, student, ask)
        return self.loss_de * torch.stack([normalised_feature_distance(*pair) for pair in pairs]).mean()
