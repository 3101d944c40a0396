"""Start from weights that were trained elsewhere."""

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_continual.methods.bases.early_layers import make_layers
from lit_continual.methods.pretrained.load_pretrained import LoadReport, load_pretrained


class Pretrained(Callback):
    """Load the weights that fit by name and shape into any LightningModule before its first fit.

    The table of what was taken, renamed, adapted, skipped and missing goes to Lightning's log. The weights are loaded
    once: neither a resumed fit nor a later fit that was handed this callback's state loads them again.

    Args:
        weights: File of a Lightning checkpoint or a state dict, of the whole module or a part such as its encoder.
            Prefixes may differ, and torchvision's and MONAI's names of a DenseNet are one; see
            :func:`~lit_continual.methods.pretrained.load_pretrained.load_pretrained`.

    Raises:
        ValueError: If the file cannot be read, or nothing in it fits.
        MisconfigurationException: If the module makes its layers only in its own ``setup``.

    References:
        Sagie, Greenspan and Goldberger. Transfer Learning via Parameter Regularization for Medical Image
        Segmentation. Section II.A.

    Example:
        >>> callback = Pretrained("densenet121.pth")
    """

    def __init__(self, weights: str) -> None:
        self.weights = weights
        self._loaded = ""
        self._outcome: LoadReport | Exception | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not self._loaded:
            try:
                make_layers(trainer, pl_module, self)
                self._outcome = load_pretrained(pl_module, self.weights)
            except (ValueError, MisconfigurationException) as error:
                self._outcome = error  # a checkpoint to resume from, which is loaded next, takes the place of it

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            if trainer.ckpt_path is None:
                if isinstance(outcome, Exception):
                    raise outcome
                rank_zero_info(f"Weights from {self.weights}:\n{outcome}")
            self._loaded = self.weights

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"loaded": self._loaded} if self._loaded else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded, self._outcome = state_dict.get("loaded", ""), None
