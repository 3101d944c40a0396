"""CoRiSeg: the most certain slices, of which those nearest in content to the training set."""

from lit_continual.functional import maximum_coverage
from lit_continual.functional.content_distance import Reduction
from lit_continual.selection.certainty_coverage import most_certain
from lit_continual.selection.content_distances import Activations, content_distances
from lit_continual.selection.samples import Samples, union


class ContentCoverage:
    r"""CoRiSeg: for each class, greedy coverage of the whole training set by content distance.

    The candidates of a class are its :math:`k_c` most certain slices, or all of its slices where the samples come
    without ``uncertainty``; the exemplars maximise :math:`\sum_i \max_{s \in S} -d_{cont}(I_i, I_s)`, from
    :math:`-\infty`. Needs ``images``.

    Args:
        activations: Maps a batch of images to the activations of one layer after the other, for instance
            ``VGG16Features().activations``; a generator saves memory. It must treat images one by one.
        most_certain: :math:`k_c`, 50 in the paper.
        reduction: See :func:`lit_continual.functional.content_distance`.
        batch_size: Images that go through the network at once.

    References:
        Ozdemir et al. Learn the New, Keep the Old. MICCAI 2018, section 2.2, eq. 3.

    Example:
        >>> import torch
        >>> images = torch.tensor([0.0, 1.0, 5.0]).view(3, 1, 1, 1)
        >>> samples = Samples(torch.ones(3, 1, dtype=torch.bool), images=images)
        >>> ContentCoverage(lambda batch: [batch])(samples, budget=2)
        [1, 2]
    """

    def __init__(
        self, activations: Activations, most_certain: int = 50, reduction: Reduction = "mean", batch_size: int = 8
    ) -> None:
        if most_certain < 1:
            raise ValueError(f"`most_certain`, the candidates of a class, must be at least 1, got {most_certain}.")
        self.activations, self.most_certain = activations, most_certain
        self.reduction, self.batch_size = reduction, batch_size

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return up to ``budget`` samples, the classes in turn."""
        images, orders = samples.need("images", self), []
        for label in range(samples.contains.shape[1]):
            if samples.uncertainty is None:
                candidates = samples.members(label)
            else:
                candidates = most_certain(samples, samples.uncertainty, label, self.most_certain)
            candidates = candidates.sort().values  # a tie goes to the lowest index
            distance = content_distances(images, candidates, self.activations, self.reduction, self.batch_size)
            orders.append([int(candidates[pick]) for pick in maximum_coverage(-distance, budget)])
        return union(orders)[:budget]
