"""AeiSeg: the most certain slices, of which those that cover the training set best."""

from itertools import islice

from torch import Tensor

from lit_continual.methods.rehearsal.coverage import coverage_order
from lit_continual.methods.rehearsal.selection.progress import shown
from lit_continual.methods.rehearsal.selection.samples import POLICIES, Samples, union


def most_certain(samples: Samples, uncertainty: Tensor, label: int, count: int) -> Tensor:
    """Return the samples :math:`S_c^j` that contain a class and are most certain of it, ties by index.

    Example:
        >>> import torch
        >>> samples = Samples(torch.tensor([[True], [True], [False]]))
        >>> most_certain(samples, torch.tensor([[0.3], [0.1], [0.0]]), label=0, count=1)
        tensor([1])
    """
    members = samples.members(label)
    return members[uncertainty[members, label].argsort(stable=True)[:count]]


@POLICIES.add
class CertaintyCoverage:
    r"""AeiSeg: for each class, greedy coverage of the whole training set from its most certain slices.

    Among the slices that contain class :math:`j`, the :math:`k_c` most certain ones are the candidates
    :math:`S_c^j`; of these the exemplars maximise

    .. math:: F(S) = \sum_{i \in S_a} \max_{s \in S} \cos(x_i, x_s)

    over the whole training set :math:`S_a`. Needs ``uncertainty`` and ``features``. A class without a slice is left
    out. Where the budget is in total, the classes take turns.

    Args:
        most_certain: :math:`k_c`, 50 in the paper.

    References:
        Ozdemir et al. Learn the New, Keep the Old. MICCAI 2018, section 2.2.

    Example:
        >>> import torch
        >>> samples = Samples(
        ...     torch.tensor([[True], [True], [True]]),
        ...     uncertainty=torch.tensor([[0.1], [0.2], [0.9]]),
        ...     features=torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
        ... )
        >>> CertaintyCoverage(most_certain=2)(samples, budget=5)
        [1, 0]
    """

    def __init__(self, most_certain: int = 50) -> None:
        if most_certain < 1:
            raise ValueError(f"`most_certain`, the candidates of a class, must be at least 1, got {most_certain}.")
        self.most_certain = most_certain

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return up to ``budget`` samples, the classes in turn."""
        uncertainty, features = samples.need("uncertainty", self), samples.need("features", self)
        orders = []
        for label in range(samples.contains.shape[1]):
            candidates = most_certain(samples, uncertainty, label, self.most_certain)
            order = islice(coverage_order(features, candidates, samples.group), budget)
            orders.append(list(shown(order, f"Coverage of class {label}", min(budget, len(candidates)))))
        return union(orders)[:budget]
