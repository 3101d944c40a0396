"""Herding: the samples whose mean stays nearest to the mean of all, the exemplars of iCaRL."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_continual.methods.rehearsal.candidates import candidate_indices
from lit_continual.methods.rehearsal.coverage import check_budget
from lit_continual.methods.rehearsal.selection.samples import POLICIES, Samples, union
from lit_continual.metrics.exact import in_float64


@POLICIES.add
class Herding:
    """Pick for each class the samples whose mean feature stays nearest to the mean of the class.

    Needs ``features``. See :func:`~lit_continual.functional.herding`.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> Herding()(Samples(torch.ones(3, 1, dtype=torch.bool), features=features), budget=2)
        [1, 0]
    """

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return up to ``budget`` samples, the classes in turn."""
        features = samples.need("features", self)
        members = [samples.members(label) for label in range(samples.contains.shape[1])]
        return union([herding(features, budget, of) for of in members])[:budget]


def herding(features: Tensor, k: int, candidates: Sequence[int] | Tensor | None = None) -> list[int]:
    r"""Pick ``k`` samples one by one so that the mean of those picked comes nearest to the mean of all candidates.

    .. math:: p_k = \argmin_x \left\lVert \mu - \frac{1}{k} \left(\varphi(x) + \sum_{j<k} \varphi(p_j)\right)
        \right\rVert

    with features :math:`\varphi` of unit length and their mean :math:`\mu`, not normalised again. In float64; ties go
    to the lowest index, no sample is picked twice, and the order is prefix-stable.

    Args:
        features: ``(n, d)``; a zero vector stays zero.
        k: Number of picks. If there are fewer candidates they are all returned.
        candidates: Samples of the class, without repetition. All by default.

    Returns:
        Sample indices in the order in which they were picked.

    Raises:
        ValueError: If ``k`` is negative or ``candidates`` is not a set of samples.

    References:
        Rebuffi et al. iCaRL: Incremental Classifier and Representation Learning. CVPR 2017, algorithm 4.

    Example:
        >>> herding(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), k=2)
        [1, 0]
    """
    features = in_float64(features)
    indices = candidate_indices(candidates, len(features), features.device)
    chosen = features[indices]
    unit = torch.nn.functional.normalize(chosen, dim=1, eps=torch.finfo(torch.float64).tiny)
    mean, total = unit.mean(0), torch.zeros_like(unit[:1]).sum(0)
    free = torch.ones(len(indices), dtype=torch.bool, device=features.device)
    picks: list[int] = []
    for step in range(1, min(check_budget(k), len(indices)) + 1):
        distance = (mean - (total + unit) / step).norm(dim=1).masked_fill(~free, torch.inf)
        best = int(torch.nonzero(distance <= distance.min() + 64 * torch.finfo(torch.float64).eps)[0])
        total, free[best] = total + unit[best], False
        picks.append(int(indices[best]))
    return picks
