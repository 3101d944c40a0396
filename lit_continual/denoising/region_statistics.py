"""How a denoiser treats a region over independent noise realisations: its bias, its noise, and what it makes up."""

import torch
from torch import Tensor

from lit_continual.metrics.exact import in_float64


def ensemble_bias(realisations: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    r"""Signed bias of a region's mean over an ensemble of noise realisations, in percent.

    .. math:: 100 \cdot \left( \frac{\frac{1}{R} \sum_r \overline{x_r}}{\overline{t}} - 1 \right)

    with the overline the mean over the region. The realisations are averaged before anything else, so that noise that
    cancels does not count.

    Args:
        realisations: Images ``(R, *spatial)``, e.g. in SUV.
        truth: The image without noise ``(*spatial)``, in the same unit.
        mask: Where the region is, ``(*spatial)``, boolean.

    Returns:
        A scalar in float64: negative where activity is lost; nan where the region's true mean is 0.

    Raises:
        ValueError: If shapes do not fit or the region is empty.

    References:
        Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, section 4.

    Example:
        >>> ensemble_bias(torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]))
        tensor(-12.5000, dtype=torch.float64)
    """
    true = _region(truth.unsqueeze(0), mask).mean()
    mean = _region(realisations, mask).mean()
    return torch.where(true == 0, torch.nan, 100 * (mean / true - 1))


def ensemble_rmse(realisations: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    r"""How far a region's voxels are off in the mean of an ensemble of noise realisations, in percent of its true mean.

    .. math:: \frac{100}{\overline{t}} \sqrt{\overline{\left( \frac{1}{R} \sum_r x_r - t \right)^2}}

    with the overline the mean over the region. Noise cancels, and structure that is not there does not: a ring within
    an organ is seen here, and not in the bias of its mean.

    Arguments and errors are those of :func:`ensemble_bias`.

    Returns:
        A scalar in float64; nan where the region's true mean is 0.

    References:
        A number for the artefact in Fig. 6 of Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021.

    Example:
        >>> ensemble_rmse(torch.tensor([[1.0, 3.0], [1.0, 3.0]]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]))
        tensor(50., dtype=torch.float64)
    """
    true = _region(truth.unsqueeze(0), mask)[0]
    difference = _region(realisations, mask).mean(0) - true
    return torch.where(true.mean() == 0, torch.nan, 100 * difference.square().mean().sqrt() / true.mean())


def coefficient_of_variation(realisations: Tensor, mask: Tensor) -> Tensor:
    r"""Noise within a uniform region, in percent: standard deviation over mean, averaged over realisations.

    .. math:: \frac{100}{R} \sum_r \frac{\mathrm{std}(x_r)}{\overline{x_r}}

    over the voxels of the region, with the population's standard deviation (``ddof=0``).

    Arguments and errors are those of :func:`ensemble_bias`.

    Returns:
        A scalar in float64; nan where a realisation has no activity in the region.

    References:
        Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, section 4.

    Example:
        >>> coefficient_of_variation(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([True, True]))
        tensor(25., dtype=torch.float64)
    """
    values = _region(realisations, mask)
    mean = values.mean(1)
    return torch.where(mean == 0, torch.nan, 100 * values.std(1, correction=0) / mean).mean()


def _region(realisations: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool or realisations.shape[1:] != mask.shape or realisations.shape[0] == 0:
        raise ValueError(
            f"Images must be (R, *spatial) with R >= 1, and `mask` boolean and (*spatial), got"
            f" {tuple(realisations.shape)} and {mask.dtype} of shape {tuple(mask.shape)}."
        )
    if not mask.any():
        raise ValueError("`mask` is empty: there is no region to measure.")
    return in_float64(realisations[:, mask])
