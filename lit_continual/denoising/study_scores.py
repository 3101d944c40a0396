"""How well a denoiser does on whole studies of several noise realisations."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lit_continual.denoising.region_statistics import coefficient_of_variation, ensemble_bias, ensemble_rmse
from lit_continual.metrics.exact import exact_device


class StudyScores:
    """PSNR, SSIM, and bias, noise and error of every region, over all studies and over those of each group.

    Args:
        regions: Names of the regions; each has the scores ``<region>_bias``, ``_cov`` and ``_rmse``, in percent.
        groups: Groups of patients that have their own means, ``<score>/<group>``.
        data_range: Span of the intensities, in their unit.
        device: Where the scores are kept.
    """

    def __init__(self, regions: Sequence[str], groups: Sequence[str], data_range: float, device: Any) -> None:
        self.regions, self.data_range = regions, data_range

        names = ["psnr", "ssim", *(f"{region}_{score}" for score in ("bias", "rmse", "cov") for region in regions)]

        kept = exact_device(torch.device(device))

        def metrics() -> dict[str, Metric]:  # means, which a rank without a study can gather too
            return {n: MeanMetric(nan_strategy="ignore").to(kept).set_dtype(torch.float64) for n in names}

        self.metrics = {group: metrics() for group in ("", *groups)}

    def update(self, denoised: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        """Score a study, ``denoised`` ``(R, D, H, W)``, and return its own values."""
        target, group, regions = batch["target"][0], batch["group"][0], batch["regions"]
        slices = denoised.flatten(0, 1).unsqueeze(1), target.repeat(len(denoised), 1, 1).unsqueeze(1)
        found: dict[str, Any] = {
            "psnr": peak_signal_noise_ratio(*slices, data_range=self.data_range),
            "ssim": structural_similarity_index_measure(*slices, data_range=self.data_range),
        }
        for region in self.regions:
            if region in regions and bool(regions[region].any()):
                mask = regions[region][0]
                found[f"{region}_bias"] = ensemble_bias(denoised, target, mask)
                found[f"{region}_rmse"] = ensemble_rmse(denoised, target, mask)
                found[f"{region}_cov"] = coefficient_of_variation(denoised, mask)
        values = {name: float(value) for name, value in found.items()}
        for mine in {"", group} & self.metrics.keys():
            for name, value in values.items():
                self.metrics[mine][name].update(value)
        return values

    def compute(self) -> dict[str, Tensor]:
        """The mean over studies of each score, nan where there is none; every rank must call it, as it gathers."""
        found = {}
        with warnings.catch_warnings():  # of a rank that has none of the studies, or none with a region
            warnings.filterwarnings("ignore", ".*before the ``update`` method")
            for group, metrics in self.metrics.items():
                for name, metric in metrics.items():
                    found[f"{name}/{group}".rstrip("/")] = metric.compute().float()
        return found
