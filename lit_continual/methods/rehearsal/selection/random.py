"""Random exemplars: the baseline."""

from lit_continual.methods.rehearsal.selection.samples import Samples, seeded_keys


class Random:
    """Pick uniformly among the samples that contain any class.

    Args:
        seed: Of the order; ``None`` takes that of ``seed_everything``.

    Example:
        >>> import torch
        >>> Random(seed=0)(Samples(torch.tensor([[True], [False], [True]])), budget=5)
        [2, 0]
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return up to ``budget`` samples in random order."""
        order = seeded_keys(len(samples.contains), self.seed).argsort().to(samples.contains.device)
        return order[samples.contains.any(1)[order]][:budget].tolist()
