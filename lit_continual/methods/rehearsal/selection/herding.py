"""Herding: the exemplars of iCaRL."""

from lit_continual.methods.rehearsal.herding import herding
from lit_continual.methods.rehearsal.selection.samples import Samples, union


class Herding:
    """Pick for each class the samples whose mean feature stays nearest to the mean of the class.

    Needs ``features``. See :func:`~lit_continual.functional.herding`.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> Herding()(Samples(torch.ones(3, 1, dtype=torch.bool), features=features), budget=2)
        [1, 0]
    """

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return up to ``budget`` samples, the classes in turn."""
        features = samples.need("features", self)
        members = [samples.members(label) for label in range(samples.contains.shape[1])]
        return union([herding(features, budget, of) for of in members])[:budget]
