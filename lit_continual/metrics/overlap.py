"""Overlap of two masks."""

import torch
from torch import Tensor

from lit_continual.metrics.per_case_score import PerCaseScore


class Dice(PerCaseScore):
    r"""Dice coefficient :math:`2|P \cap G| / (|P| + |G|)` per case, from 0 to 1.

    Empty masks: a case where both are empty is undefined and left out of the mean; one empty mask scores 0. (MONAI's
    ``compute_dice`` leaves out every case with an empty truth, and so does not see false positives there.)

    Example:
        >>> dice = Dice()
        >>> truth = torch.tensor([[[True, True]], [[False, False]]])
        >>> dice.update(torch.tensor([[[True, False]], [[False, False]]]), truth)
        >>> dice.compute(), dice.values(), dice.left_out()
        (tensor(0.6667), tensor([0.6667,    nan]), 1)
    """

    higher_is_better = True

    def case_score(self, prediction: Tensor, truth: Tensor, spacing: list[float]) -> float:
        return _ratio(2 * torch.logical_and(prediction, truth).sum(), prediction.sum() + truth.sum())


class Precision(PerCaseScore):
    r"""Precision :math:`|P \cap G| / |P|` per case, from 0 to 1; of a patient, where a case is a patient's volume.

    Empty masks: a case with an empty prediction is undefined and left out of the mean; an empty truth with a prediction
    scores 0.

    References:
        Sagie, Greenspan and Goldberger. Transfer Learning via Parameter Regularization for Medical Image
        Segmentation. Section III.

    Example:
        >>> precision = Precision()
        >>> truth = torch.tensor([[[True, False]], [[False, True]]])
        >>> precision.update(torch.tensor([[[True, True]], [[False, False]]]), truth)
        >>> precision.compute(), precision.values(), precision.left_out()
        (tensor(0.5000), tensor([0.5000,    nan]), 1)
    """

    higher_is_better = True

    def case_score(self, prediction: Tensor, truth: Tensor, spacing: list[float]) -> float:
        return _ratio(torch.logical_and(prediction, truth).sum(), prediction.sum())


def _ratio(part: Tensor, whole: Tensor) -> float:
    return (part.float() / whole.float()).item()  # 0 / 0 is nan; integers divide in torch's default dtype
