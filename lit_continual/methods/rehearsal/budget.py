"""How much a memory may hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_continual.methods.rehearsal.exemplar import Exemplar

PAPERS = 30  # k_r, samples a class


@dataclass(frozen=True)
class Budget:
    """Limits of a memory; of those that are given, all hold. Without any it is the paper's 30 samples a class.

    Each experience has its exemplars in the order in which they were picked, and always keeps the first ones. In
    total, the classes share alike.

    Args:
        samples: Number of samples: slices, or volumes of a 3D network.
        volumes: Number of whole volumes.
        megabytes: Size of the files, in MB.
        per_class: Whether the limits are those of each class; otherwise they are those of the memory.

    Raises:
        ValueError: If a limit is negative, or samples and volumes are both limited.

    Example:
        >>> Budget(samples=0).empty, Budget().count, Budget(megabytes=5).count
        (True, 30, None)
    """

    samples: int | None = None
    volumes: int | None = None
    megabytes: float | None = None
    per_class: bool = True

    def __post_init__(self) -> None:
        if self.samples is not None and self.volumes is not None:
            raise ValueError("A budget counts `samples` or whole `volumes`, got both. Drop one.")
        for name in ("samples", "volumes", "megabytes"):
            if (limit := getattr(self, name)) is not None and limit < 0:
                raise ValueError(f"`{name}` of a budget must not be negative, got {limit}. Give 0 to keep none.")

    @property
    def count(self) -> int | None:
        """How many exemplars at most, in all or of each class; ``None`` if only their size is limited."""
        given = self.samples if self.volumes is None else self.volumes
        return PAPERS if given is None and self.megabytes is None else given

    @property
    def empty(self) -> bool:
        """Whether nothing may be kept."""
        return self.count == 0 or self.megabytes == 0

    def kept(self, exemplars: Sequence[Exemplar], classes: Mapping[str, Sequence[str]]) -> list[Exemplar]:
        """Return the exemplars that stay, in their order.

        Args:
            exemplars: All there are.
            classes: Of each experience, the classes that its exemplars were picked for.
        """
        if not self.per_class:
            shared = sorted(exemplars, key=lambda e: e.rank // max(len(classes[e.experience]), 1))
            chosen = self._first(shared)
        else:
            chosen = []
            for name in dict.fromkeys(name for exemplar in exemplars for name in exemplar.picked_for):
                own = [exemplar for exemplar in exemplars if name in exemplar.picked_for]
                chosen += self._first(sorted(own, key=lambda e: e.picked_for[name]))
        keys = {(exemplar.experience, exemplar.rank) for exemplar in chosen}
        return [exemplar for exemplar in exemplars if (exemplar.experience, exemplar.rank) in keys]

    def _first(self, order: Sequence[Exemplar]) -> list[Exemplar]:
        """Return the longest beginning of an order that is within the limits."""
        taken, size = list[Exemplar](), 0
        for exemplar in order[: self.count]:
            size += exemplar.bytes
            if self.megabytes is not None and size > self.megabytes * 1e6:
                break
            taken.append(exemplar)
        return taken
