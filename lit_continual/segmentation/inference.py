"""How a segmenter goes over a volume, and back to the grid of its file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from lit_continual.data.arguments import require_at_least
from lit_continual.data.batch import Batch
from lit_continual.windows.sliding_window import slide
from lit_continual.windows.stitching import blocks
from lit_continual.windows.window_sums import Block

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
        resample: What is brought to the grid of the file: ``"logits"`` or ``"probabilities"`` linearly, ``"labels"``
            by the nearest voxel.
        stitch_device: Where the answers of windows are added up: ``"same"`` is where the network is, ``"cpu"`` leaves
            the memory of a GPU to the windows.
        stitch_dtype: How sums are kept that later windows add to: ``"float16"`` takes half of the memory, and some
            voxels between two classes get the other one. It holds where label maps are made block by block.

    Raises:
        ValueError: If an argument is out of range.
    """

    overlap: float = 0.25
    mode: Literal["gaussian", "constant"] = "gaussian"
    padding_mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    sw_batch_size: int = 16
    resample: Literal["logits", "probabilities", "labels"] = "logits"
    stitch_device: Literal["same", "cpu"] = "same"
    stitch_dtype: Literal["float32", "float16"] = "float32"

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
        return slide(network, volumes, window, **self._way())

    def blocks(
        self, network: Callable[[Tensor], Tensor], volume: Tensor, window: Sequence[int], halo: int
    ) -> Iterator[Block]:
        """Map a volume ``(C, H, W, D)`` to blocks of logits ``(K, H, W, D)``; see :func:`.blocks`."""
        return blocks(network, volume, window, **self._way(), halo=halo, dtype=getattr(torch, self.stitch_dtype))

    def _way(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in ("overlap", "mode", "padding_mode", "sw_batch_size")}
        return {**known, "device": "cpu" if self.stitch_device == "cpu" else None}

    def plain(self) -> dict[str, Any]:
        """The arguments, as plain data; of those that old programs do not know, what is asked for."""
        default = type(self)()
        return {k: v for k, v in asdict(self).items() if k not in _NEW or v != getattr(default, k)}

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


_NEW = ("stitch_device", "stitch_dtype")
_CHOICES = {
    "mode": ("gaussian", "constant"),
    "padding_mode": ("constant", "reflect", "replicate", "circular"),
    "resample": ("logits", "probabilities", "labels"),
    "stitch_device": ("same", "cpu"),
    "stitch_dtype": ("float32", "float16"),
}
