"""Share of a prediction that is right."""

import torch
from torch import Tensor

from lit_continual.metrics.per_case_score import PerCaseScore


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
        shared = torch.logical_and(prediction, truth).sum()
        return (shared.float() / prediction.sum().float()).item()  # 0 / 0 is nan; see Dice
