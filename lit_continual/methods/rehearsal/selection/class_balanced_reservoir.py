"""A random sample of each class, equally many of each."""

from lit_continual.methods.rehearsal.selection.samples import Samples, seeded_keys, union


class ClassBalancedReservoir:
    """Keep a uniform random sample of each class, as many of rare classes as of common ones.

    One reservoir a class, in the form in which every sample draws a random key and the lowest keys stay: the sample
    is the same in distribution as that of Vitter's algorithm R, and a smaller budget is a prefix. A sample of several
    classes serves them all.

    Args:
        seed: Of the keys; ``None`` takes that of ``seed_everything``.

    References:
        Chrysakis and Moens. Online Continual Learning from Imbalanced Data. ICML 2020. Vitter. Random Sampling with a
        Reservoir. ACM TOMS 1985.

    Example:
        >>> import torch
        >>> samples = Samples(torch.tensor([[True, False], [True, False], [True, False], [False, True]]))
        >>> 3 in ClassBalancedReservoir(seed=1)(samples, budget=2)
        True
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return up to ``budget`` samples, the classes in turn."""
        keys = seeded_keys(len(samples.contains), self.seed).to(samples.contains.device)
        members = (samples.members(label) for label in range(samples.contains.shape[1]))
        return union([of[keys[of].argsort()].tolist() for of in members])[:budget]
