"""Random exemplars: of all samples, or equally many of each class."""

import os

import torch
from torch import Tensor

from lit_continual.methods.rehearsal.selection.samples import POLICIES, Samples, union


@POLICIES.add
class Random:
    """Pick uniformly among the samples that contain any class.

    Args:
        seed: Of the order; ``None`` takes that of ``seed_everything``.

    Example:
        >>> Random(seed=0)(Samples(torch.tensor([[True], [False], [True]])), budget=5)
        [2, 0]
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return up to ``budget`` samples in random order."""
        order = seeded_keys(len(samples.contains), self.seed).argsort().to(samples.contains.device)
        return order[samples.contains.any(1)[order]][:budget].tolist()


@POLICIES.add
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


def seeded_keys(n: int, seed: int | None) -> Tensor:
    """Draw one random key a sample; the lowest ``k`` keys are a uniform sample, and a prefix of those of ``k + 1``.

    Args:
        n: Number of samples.
        seed: Of the keys; ``None`` takes that of ``seed_everything``.

    Example:
        >>> torch.equal(seeded_keys(3, 0), seeded_keys(3, 0))
        True
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED") or 0) if seed is None else seed
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
