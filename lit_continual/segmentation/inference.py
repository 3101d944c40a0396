"""How a segmenter goes over a volume, and back to the grid of its file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from lit_continual.data.arguments import require_at_least
from lit_continual.data.batch import Batch
from lit_continual.data.sliding_window import slide

LEAST = 1e-30  # probability, whose logarithm is still a number


@dataclass(frozen=True)
class Inference:
    """How a segmenter goes over a volume, and back to the grid of its file.

    Args:
        overlap: Share of a window that it has in common with the next, along each axis.
        mode: Weight of a window's voxels where windows overlap: ``"gaussian"`` falls off to the rim, ``"constant"`` is
            1 throughout.
        padding_mode: How a volume is padded that is smaller than a window.
        sw_batch_size: Windows that go through the network together.
        stitch_on_cpu: Put windows together in the memory of the CPU, for volumes with many classes that a GPU has no
            room for.
        resample: What is brought to the grid of the file: ``"logits"`` or ``"probabilities"`` linearly, ``"labels"``
            by the nearest voxel.

    Raises:
        ValueError: If an argument is out of range.
    """

    overlap: float = 0.25
    mode: Literal["gaussian", "constant"] = "gaussian"
    padding_mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    sw_batch_size: int = 16
    stitch_on_cpu: bool = False
    resample: Literal["logits", "probabilities", "labels"] = "logits"

    def __post_init__(self) -> None:
        require_at_least(1, sw_batch_size=self.sw_batch_size)
        if not 0 <= self.overlap < 1:
            raise ValueError(f"`overlap` must be in [0, 1), got {self.overlap}.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {getattr(self, name)!r}.")

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | None) -> Self:
        """Return what is given, also as the plain data that checkpoints hold; the default for none."""
        return given if isinstance(given, cls) else cls(**dict(given or {}))  # type: ignore[arg-type]

    def slide(self, network: Callable[[Tensor], Tensor], volumes: Tensor, window: Sequence[int]) -> Tensor:
        """Map volumes ``(B, C, H, W, D)`` to logits ``(B, K, H, W, D)``; see :func:`.slide`."""
        how = self.overlap, self.mode, self.padding_mode, self.sw_batch_size, self.stitch_on_cpu
        return slide(network, volumes, window, *how)

    def plain(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return asdict(self)

    def resampled(
        self, logits: Tensor, heads: Sequence[Sequence[int]], to_grid: Callable[..., Tensor], batch: Batch
    ) -> Tensor:
        """Bring the logits of all heads to another grid; those of probabilities are their logarithms.

        Args:
            logits: ``(B, K, *spatial)``.
            heads: Channels of each head.
            to_grid: Resamples a volume ``(B, K, *spatial)`` of a batch linearly, or with ``mode="nearest"``.
            batch: Says what the grids are.
        """
        if self.resample == "labels":
            return to_grid(logits, batch, mode="nearest")  # so the winner of a voxel is that of the nearest
        if self.resample == "logits":
            return to_grid(logits, batch)
        probabilities = torch.cat([logits[:, channels].softmax(1) for channels in heads], 1)
        return to_grid(probabilities, batch).clamp_min(LEAST).log()


_CHOICES = {
    "mode": ("gaussian", "constant"),
    "padding_mode": ("constant", "reflect", "replicate", "circular"),
    "resample": ("logits", "probabilities", "labels"),
}
