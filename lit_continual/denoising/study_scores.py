"""How well a denoiser does on whole studies of several noise realisations."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from lit_continual.denoising.region_statistics import coefficient_of_variation, ensemble_bias, ensemble_rmse


class StudyScores:
    """PSNR, SSIM, and bias, noise and error of every region, over all studies and over those of each group.

    Args:
        regions: Names of the regions; each has the scores ``<region>_bias``, ``_cov`` and ``_rmse``, in percent.
        groups: Groups of patients that have their own means, ``<score>/<group>``.
        data_range: Span of the intensities, in their unit.
        device: Where the scores are kept.
    """

    def __init__(self, regions: Sequence[str], groups: Sequence[str], data_range: float, device: Any) -> None:
        self.regions = regions

        names = [f"{region}_{score}" for score in ("bias", "rmse", "cov") for region in regions]

        def metrics() -> dict[str, Metric]:
            whole = (0, 1, 2, 3)  # so that each update is one value of PSNR, and the result their mean
            return {
                "psnr": PeakSignalNoiseRatio(data_range, dim=whole).to(device),
                "ssim": StructuralSimilarityIndexMeasure(data_range=data_range).to(device),
                **{n: MeanMetric(nan_strategy="ignore").to(device).set_dtype(torch.float64) for n in names},
            }

        self.metrics = {group: metrics() for group in ("", *groups)}

    def update(self, denoised: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        """Score a study, ``denoised`` ``(R, D, H, W)``, and return its own values."""
        target, group, regions = batch["target"][0], batch["group"][0], batch["regions"]
        slices = denoised.flatten(0, 1).unsqueeze(1), target.repeat(len(denoised), 1, 1).unsqueeze(1)
        given: dict[str, Sequence[Tensor]] = {"psnr": slices, "ssim": slices}
        for region in self.regions:
            if region in regions and bool(regions[region].any()):
                mask = regions[region][0]
                given[f"{region}_bias"] = (ensemble_bias(denoised, target, mask),)
                given[f"{region}_rmse"] = (ensemble_rmse(denoised, target, mask),)
                given[f"{region}_cov"] = (coefficient_of_variation(denoised, mask),)
        if group in self.metrics and group:
            for name, images in given.items():
                self.metrics[group][name].update(*images)
        return {name: float(self.metrics[""][name](*images)) for name, images in given.items()}

    def compute(self) -> dict[str, Tensor]:
        """The mean over studies of each score, nan where there is none."""
        found = {}
        for group, metrics in self.metrics.items():
            for name, metric in metrics.items():
                value = metric.compute() if metric.update_called else torch.tensor(torch.nan)
                found[f"{name}/{group}".rstrip("/")] = value.float()
        return found
