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
        foreground = prediction.sum() + truth.sum()
        shared = 2 * torch.logical_and(prediction, truth).sum()
        return (shared.float() / foreground.float()).item()  # 0 / 0 is nan; integers divide in torch's default dtype
