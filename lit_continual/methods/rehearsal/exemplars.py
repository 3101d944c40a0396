"""Which exemplars a stream keeps, and how they come back."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_continual.methods.rehearsal.budget import Budget
from lit_continual.methods.rehearsal.candidates import Candidates
from lit_continual.methods.rehearsal.exemplar import Exemplar
from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory
from lit_continual.methods.rehearsal.selection import POLICIES
from lit_continual.methods.rehearsal.selection.samples import Measurement, Policy, Samples, of_class, union
from lit_continual.runs.checkpoints.registry import construct, flat
from lit_continual.runs.checkpoints.spec import Spec


@dataclass
class Exemplars:
    """How the exemplars of an experience are chosen, and how they are mixed with the samples of the next ones.

    Args:
        policy: Which samples are kept: ``Random``, ``ClassBalancedReservoir``, ``Herding``, ``CertaintyCoverage``
            (AeiSeg), ``ContentCoverage`` (CoRiSeg), or the path of a class or function of your own; with arguments as
            ``class_path`` and ``init_args``.
        budget: How many; limits of the whole memory, or of each class.
        layer: Abstraction layer for policies that need features, by its name in the module, such as ``body.down_4``.
        passes: Monte Carlo dropout passes for policies that need certainty.
        certainty: ``absolute`` is the variance over the passes, the mean over pixels, of which slices have little that
            show little of a class; ``relative`` divides it by what was seen of the class.
        batches: ``pure`` gives a batch one origin, as in the paper, and ``mixed`` puts exemplars in every batch, which
            those need that are trained on their own labels under batch normalisation.
        share: Of exemplars among the samples of an epoch; ``None`` draws each about once an epoch.
        start: Memory of an earlier run to begin with, to extend what that run has learnt.

    Raises:
        ValueError: If the policy cannot be built or a number is out of range.

    Example:
        >>> policy = {"class_path": "CertaintyCoverage", "init_args": {"most_certain": 50}}
        >>> Exemplars(policy, layer="body.down_4").name
        'CertaintyCoverage'
    """

    policy: Spec = "Random"
    budget: Budget = field(default_factory=Budget)
    layer: str | None = None
    passes: int = 29
    certainty: Literal["absolute", "relative"] = "absolute"
    batches: Literal["pure", "mixed"] = "pure"
    share: float | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"`share` of exemplars must lie between 0 and 1, got {self.share}.")
        if self.passes < 2:
            raise ValueError(f"`passes` must be at least 2 for them to vary, got {self.passes}.")
        if self.start is not None:
            ExemplarMemory(self.start).require()
        self.chooser = policy_of(self.policy)

    @property
    def name(self) -> str:
        """Name of the policy."""
        return str(flat(self.policy)["_target_"])

    def chosen(
        self, candidates: Candidates, samples: Samples, experience: str, source: str
    ) -> list[tuple[Exemplar, dict[str, Any]]]:
        """Choose exemplars.

        Args:
            candidates: The samples of the experience.
            samples: The same, as the policy sees them.
            experience: Its name.
            source: Where they come from.

        Returns:
            Exemplars in the order in which they were picked, each with its sample.
        """
        whole, picks = self.budget.volumes is not None, []
        order, orders = self._orders(candidates, samples)
        for rank, k in enumerate(order):
            places = {name: of.index(k) for name, of in zip(candidates.classes, orders, strict=True) if k in of}
            sample = candidates.sample(k, whole)
            parts = [i for i in range(len(samples.contains)) if candidates.volume(i) == candidates.volume(k)]
            within = samples.contains[parts if whole else [k]].any(0).tolist()
            exemplar = Exemplar(
                experience,
                rank,
                picked_for=places,
                source=source,
                patient=str(sample.get("patient", "unknown")),
                slice=sample.get("slice"),
                classes=[name for name, there in zip(candidates.classes, within, strict=True) if there],
                score=_uncertainty(samples, k, candidates.classes),
                why=f"{self.name}: " + ", ".join(f"pick {place + 1} for {name}" for name, place in places.items()),
            )
            picks.append((exemplar, sample))
        return picks

    def _orders(self, candidates: Candidates, samples: Samples) -> tuple[list[int], list[list[int]]]:
        """Return what is kept, in order, and what of it for each class; a volume is named by its first pick."""
        budget, labels = self.budget, range(len(candidates.classes))
        limit = len(samples.contains) if budget.volumes is not None or budget.count is None else budget.count
        if budget.per_class:
            orders = [self.chooser(of_class(samples, j), limit) for j in labels]
            order = union(orders)
        else:
            order = self.chooser(samples, limit)
            orders = [[k for k in order if samples.contains[k, j]] for j in labels]
        if budget.volumes is not None:
            first = {candidates.volume(k): k for k in reversed(order)}
            order, *orders = ([*dict.fromkeys(first[candidates.volume(k)] for k in of)] for of in (order, *orders))
        if budget.per_class:
            orders = [of[: budget.count] for of in orders]
            return union(orders), orders
        order = order[: budget.count]
        return order, [[k for k in of if k in order] for of in orders]


def policy_of(spec: Mapping[str, Any] | str) -> Policy:
    """Build the policy that ``spec`` describes.

    Args:
        spec: ``class_path`` and ``init_args``, or the name alone: a class of
            ``lit_continual.methods.rehearsal.selection``, or the path of any class or function that is a policy.

    Raises:
        ValueError: If the name is not there or does not take the arguments.

    Example:
        >>> policy_of({"class_path": "CertaintyCoverage", "init_args": {"most_certain": 5}}).most_certain
        5
    """
    arguments = flat(spec)
    name = arguments.pop("_target_")
    found = POLICIES.find(name)
    policy: Policy = partial(found, **arguments) if inspect.isfunction(found) else construct(found, arguments, name)
    return policy


def _uncertainty(samples: Samples, k: int, classes: list[str]) -> dict[str, float]:
    """Uncertainty of a sample in each of its classes, where the policy has asked for it."""
    known = samples.uncertainty.value if isinstance(samples.uncertainty, Measurement) else samples.uncertainty
    if known is None:
        return {}
    found = {name: float(known[k, j]) for j, name in enumerate(classes) if samples.contains[k, j]}
    return {name: value for name, value in found.items() if isfinite(value)}


def warn_of_statistics(exemplars: Exemplars, trainer: Trainer | None) -> None:
    """Warn where a network can tell batches of exemplars by their statistics, which it does not see in evaluation."""
    if trainer is None or exemplars.batches == "mixed":
        return
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    by_statistics = any(isinstance(layer, _BatchNorm) for layer in trainer.lightning_module.modules())
    if by_statistics and not any(getattr(callback, "hides_labels", False) for callback in callbacks):
        rank_zero_warn(
            "Batches of exemplars alone have statistics of their own, and a network with batch normalisation may know"
            " by them what it forgets in evaluation. Set `batches: mixed` in the memory, or use instance normalisation."
        )
