"""Denoising of images, slice by slice with their neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from typing_extensions import override

from lit_continual.denoising.slice_neighbours import slice_neighbours
from lit_continual.denoising.study_scores import StudyScores
from lit_continual.networks import NETWORKS
from lit_continual.runs.checkpoints.classes import MODULES
from lit_continual.runs.checkpoints.spec import Spec
from lit_continual.runs.schedule import Schedule, ScheduledModule

#: Slices that go through the network together where a whole volume is denoised.
_AT_ONCE = 16


@MODULES.add
class Denoiser(ScheduledModule):
    r"""Learn to denoise from noisy and clean images, or from two noisy ones.

    A batch is a mapping with ``image`` ``(B, C, H, W)``: a noisy slice in the middle of its C neighbours, and either

    * ``target`` ``(B, 1, H, W)``, the same slice with little noise. Images of several count levels in one data set make
      it noise-adaptive training. Or
    * ``twin`` ``(B, C, H, W)``, an independent realisation of the noise. Noise2Noise learns in both directions,
      :math:`\tfrac12 \left[ L(f(x_1), x_2) + L(f(x_2), x_1) \right]`.

    A test batch may instead be a whole study: ``realisations`` ``(1, R, D, H, W)`` of one patient, ``target``
    ``(1, D, H, W)``, boolean masks ``regions`` by name, ``patient`` and ``group``.

    Args:
        network: ``class_path``, a network of this package or of MONAI by its name or any class, and ``init_args``; it
            maps C channels to one.
        loss: Loss between output and target; ``None`` is the mean squared error.
        data_range: Span of the intensities, in their unit, for PSNR and SSIM.
        optimizer: How to make the optimizer from the parameters.
        scheduler: How to make the learning-rate schedule from the optimizer, stepped once an epoch. ``OneCycleLR``
            without ``total_steps`` and ``CosineAnnealingLR`` without ``T_max`` are as long as the fit.

    Raises:
        ValueError: If the network cannot be built, or a batch has neither ``target`` nor ``twin``.

    Logs ``train/loss``, and ``val/psnr`` (dB), ``val/ssim``, ``test/psnr`` and ``test/ssim`` against ``target``. Of
    whole studies also ``test/<region>_bias``, ``_rmse`` and ``_cov`` (%) for the data module's ``regions``, and
    each score as ``…/<group>``.

    References:
        Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, section 3; Lehtinen et al. Noise2Noise. ICML 2018.

    Example:
        >>> denoiser = Denoiser({"class_path": "DnCNN", "init_args": {"features": 8}})
        >>> denoiser(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        network: Spec = "DnCNN",
        loss: nn.Module | None = None,
        data_range: float = 1.0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"network": NETWORKS.remembered(network), "data_range": data_range}, logger=False)
        self.network = NETWORKS.build(network)
        self.channels = next((m.in_channels for m in self.network.modules() if isinstance(m, nn.Conv2d)), 1)
        self.loss = loss if loss is not None else nn.MSELoss()
        self.optimizer, self.scheduler = optimizer, scheduler
        scores = MetricCollection(
            {
                "psnr": PeakSignalNoiseRatio(data_range=data_range),
                "ssim": StructuralSimilarityIndexMeasure(data_range=data_range),
            }
        )
        self.studies: StudyScores | None = None  # of the evaluation that is running
        self.scores = nn.ModuleDict({f"{stage}_scores": scores.clone(prefix=f"{stage}/") for stage in ("val", "test")})

    @override
    def forward(self, image: Tensor) -> Tensor:
        """Map slices with their neighbours ``(B, C, H, W)`` to denoised slices ``(B, 1, H, W)``."""
        denoised: Tensor = self.network(image)
        return denoised

    def infer(self, volumes: Tensor) -> Tensor:
        """Denoise volumes ``(R, D, H, W)`` slice by slice."""
        around = slice_neighbours(volumes.shape[1], self.channels).to(volumes.device)
        return torch.stack([torch.cat([self(part) for part in v[around].split(_AT_ONCE)])[:, 0] for v in volumes])

    @override
    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        image = batch["image"]
        if "target" in batch:
            loss: Tensor = self.loss(self(image), batch["target"])
        elif "twin" in batch:
            there, back = self(torch.cat([image, batch["twin"]])).chunk(2)
            loss = (self.loss(there, _middle(batch["twin"])) + self.loss(back, _middle(image))) / 2
        else:
            raise ValueError(f"A batch to denoise needs `target` or `twin`, and this one has {', '.join(batch)}.")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        return loss

    @override
    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    @override
    def on_test_epoch_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        regions, groups = getattr(data, "regions", ()), getattr(data, "groups", ())
        self.studies = StudyScores(regions, groups, self.hparams["data_range"], self.device) if regions else None

    @override
    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        if self.studies is None:
            self._evaluate(batch, "test")
            return None
        if "padding" in batch:
            return None
        denoised = self.infer(batch["realisations"][0])
        scores = self.studies.update(denoised, batch)
        return {"scores": {batch["group"][0] or "all": scores}, **_pictured(denoised[0], batch, self.studies.regions)}

    @override
    def on_test_epoch_end(self) -> None:
        if self.studies is not None:
            self.log_dict({f"test/{name}": value for name, value in self.studies.compute().items()})
            self.studies = None

    def _evaluate(self, batch: Mapping[str, Tensor], stage: str) -> None:
        scores = self.scores[f"{stage}_scores"]
        if "padding" not in batch:
            scores.update(self(batch["image"]), batch["target"])  # type: ignore[operator]  # a `MetricCollection`
        self.log_dict(scores, batch_size=len(batch["image"]))  # type: ignore[arg-type]

    @override
    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        return self(batch["image"])  # type: ignore[no-any-return]


def _pictured(denoised: Tensor, batch: Mapping[str, Any], regions: Sequence[str]) -> dict[str, Any]:
    """What a report shows of a study: a denoised realisation, and where the last of the regions lies that it has."""
    if "pixel" not in batch:
        return {"truth": {}}
    there = [name for name in regions if name in batch["regions"] and bool(batch["regions"][name].any())][-1:]
    truth = {name: batch["regions"][name][0].permute(1, 2, 0) for name in there}
    side = float(batch["pixel"][0])
    return {
        "image": denoised.permute(1, 2, 0),
        "truth": truth,
        "prediction": {name: torch.zeros_like(mask) for name, mask in truth.items()},
        "spacing": (side, side, side),
    }


def _middle(image: Tensor) -> Tensor:
    return torch.narrow(image, 1, image.shape[1] // 2, 1)
