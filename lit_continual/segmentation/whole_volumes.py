"""What a segmenter answers on whole volumes, from windows to label maps in the grid of a file."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lit_continual.data.batch import Batch
from lit_continual.files.whole_files import in_one_line
from lit_continual.runs.schedule import ScheduledModule
from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.inference import Inference
from lit_continual.segmentation.masks import Masks, packed, unpacked
from lit_continual.segmentation.network_input import named_failure, require_channels, require_finite, require_size
from lit_continual.segmentation.shared_head import SharedHead
from lit_continual.segmentation.source_grid import Axis, Everywhere, Piece, axes_to_source, pieces_of, to_source_grid


class WholeVolumes(ScheduledModule):
    """Base of a segmenter: its answers on whole volumes.

    Label maps and masks are made block by block, as windows are finished, so that the logits of all heads are never
    there at once. Whole logits, in the grid of the file, are what ``predict_step`` returns and what :meth:`labels` and
    :meth:`processed` take; :meth:`needs_whole` says when evaluation and prediction make them too. A class that changes
    how these come about says in :meth:`_pieces` and :meth:`_axes` how its pieces do.
    """

    body: Any
    spatial_dims: int
    heads: GrowingHeads | SharedHead
    post: Any
    inference: Inference
    to_source_grid: Callable[..., Tensor] = staticmethod(to_source_grid)

    @property
    def head_channels(self) -> list[list[int]]:
        """Output channels of each softmax: its background, then its classes."""
        return self.heads.channels

    @property
    def classes(self) -> list[str]:
        """All class names, in the order in which they were learnt."""
        return [name for head in self.heads.classes for name in head]

    def window(self, shape: Sequence[int]) -> list[int]:
        """The window that goes over a volume of a shape: all of it, or of a slice, where nothing else is said."""
        return list(self.hparams["roi_size"] or shape[: self.spatial_dims])

    def _infer(self, batch: Batch) -> Tensor:
        with self._network_on(batch):
            logits = self.infer(batch["image"])
        return self.inference.resampled(logits, self.head_channels, self.to_source_grid, batch)

    @contextlib.contextmanager
    def _network_on(self, batch: Batch) -> Iterator[None]:
        """Refuse an image of other channels, and name the one that the network fails on."""
        images, paths = batch["image"], batch.get("path", ["an image"])
        require_channels(self.body, images[0], paths[0])
        with named_failure(images, paths):
            yield

    def infer(self, image: Tensor) -> Tensor:
        """Map volumes ``(B, C, H, W, D)`` to logits by a sliding window; a 2D network goes slice by slice over D."""
        found = self.inference.slide(self, image, self.window(image.shape[2:]))
        return found.float()  # of bf16, voxels and heads would tie

    def masks(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)``, voxel by voxel, to a boolean mask of each class, ``(B, K, *spatial)``."""
        return self.heads.masks(logits)

    def winners(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)``, voxel by voxel, to label maps ``(B, *spatial)``: 0, or a class from 1."""
        return self.heads.labels(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)``, voxel by voxel, to the probability of each class in its head."""
        return self.heads.probabilities(logits)

    def labels(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, C, *spatial)`` of volumes to label maps ``(B, *spatial)`` after post-processing."""
        return self._postprocessed(self.winners(logits))

    def processed(self, logits: Tensor) -> Tensor:
        """Map logits of volumes to the masks that are scored: of :meth:`masks`, or of :meth:`labels`."""
        values = torch.arange(1, len(self.classes) + 1, device=logits.device).view(-1, *[1] * (logits.ndim - 2))
        return self.labels(logits)[:, None] == values if self._labels_are_scored else self.masks(logits)

    @property
    def _labels_are_scored(self) -> bool:
        """Whether it is the label map that is scored, and not what each head finds for itself."""
        return bool(self.post.transforms) or self.inference.scored == "labels"

    def _postprocessed(self, maps: Tensor) -> Tensor:
        if not self.post.transforms:
            return maps
        try:
            found = torch.cat([self.post(one[None].long()).as_subclass(Tensor) for one in maps])
        except Exception as error:  # of anybody's transform
            said = in_one_line(error.__cause__ or error)
            raise ValueError(f"`post` fails on a label map ({said}). Correct its transforms.") from error
        if found.shape != maps.shape:
            sizes = (" x ".join(map(str, one.shape[1:])) for one in (found, maps))
            raise ValueError(f"`post` makes {next(sizes)} voxels of {next(sizes)}. Correct its transforms.")
        if not bool(((found >= 0) & (found <= len(self.classes)) & (found == found.long())).all()):
            raise ValueError("`post` makes values of a label map that are no class. Correct its transforms.")
        return found

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._infer(batch)

    def predicted(self, batch: Batch, probabilities: bool = False) -> tuple[Tensor, Tensor | None]:
        """Segment one volume.

        Args:
            batch: A batch of one volume.
            probabilities: Whether to return these too.

        Returns:
            The label map ``(1, *spatial)`` in the grid of the file, after post-processing, and the probability of each
            class, ``(1, K, *spatial)``.

        Raises:
            ValueError: If the network fails, or says what is no number.
        """
        if self.needs_whole(batch):
            logits = self.predict_step(batch, 0).float()
            require_finite(logits, batch)
            return self.labels(logits), self.probabilities(logits) if probabilities else None

        def winners(logits: Tensor) -> Tensor:
            require_finite(logits, batch)
            return self._small_winners(logits)

        makers = {"labels": winners, **({"probabilities": self.probabilities} if probabilities else {})}
        found = self._over_blocks(batch, makers)
        return self._postprocessed(found["labels"][:, 0]), found.get("probabilities")

    def predicted_masks(self, batch: Batch) -> Mapping[str, Tensor]:
        """The mask ``(1, *spatial)`` of each class in one volume that is scored, in the grid of its file."""
        device = batch["label"].device
        if self.needs_whole(batch):
            whole = self.processed(self._infer(batch)).to(device).unbind(1)
            return dict(zip(self.classes, whole, strict=True))
        if self._labels_are_scored:
            maps = self.predicted(batch)[0].to(device)
            return Masks(self.classes, lambda name: maps == self.classes.index(name) + 1)
        bits = self._over_blocks(batch, {"bits": lambda logits: packed(self.masks(logits))})["bits"].to(device)
        return Masks(self.classes, lambda name: unpacked(bits, self.classes.index(name)))

    def needs_whole(self, batch: Batch) -> bool:
        """Whether the logits of a batch are to be there as a whole, and not piece by piece.

        So it is where a class has its own way through a volume, to the grid of the file or from whole logits to labels,
        and does not say how that goes piece by piece; where the axes of the file are not parallel to those of the
        network's grid, which only a resampled image with a sheared affine has, and values are interpolated; and of
        several volumes, or 2D images, in a batch.
        """
        own = ("infer", "_infer", "predict_step", "labels", "processed", "to_source_grid")
        other = any(_depth(type(self), name) < _depth(type(self), "_pieces") for name in own)
        other |= bool({"infer", "to_source_grid"} & vars(self).keys())
        image = batch["image"]
        return other or image.ndim != 5 or len(image) != 1 or self._axes(batch) is None

    def _small_winners(self, logits: Tensor) -> Tensor:
        return self.winners(logits)[:, None].to(torch.uint8 if len(self.classes) < 2**8 else torch.int16)

    @torch.no_grad()
    def _over_blocks(self, batch: Batch, makers: Mapping[str, Callable[[Tensor], Tensor]]) -> dict[str, Tensor]:
        """Map one volume to what each maker, voxel by voxel, makes of its logits in the grid of the file."""
        nearest = self._takes_nearest(batch)
        found, pieces = dict[str, Tensor](), self._pieces(_as_prepared(batch) if nearest else batch)
        size = batch["image"].shape[2:] if nearest else map(int, batch["source_shape"][0])
        shape = tuple(size)
        for piece, logits in pieces:
            for name, make in makers.items():
                made = make(logits)
                if name not in found:
                    found[name] = made.new_empty(*made.shape[:2], *shape)
                piece.put(made, found[name])
        return {name: self.to_source_grid(found[name], batch, mode="nearest") for name in makers} if nearest else found

    def _takes_nearest(self, batch: Batch) -> bool:
        """Whether voxels of the file take what the nearest of the network has, so that labels may be made before."""
        if self.inference.resample != "labels":
            return False
        axes = axes_to_source(batch, batch["image"].shape[2:])
        return axes is None or not _on_voxels(axes)

    def _axes(self, batch: Batch) -> list[Axis] | None:
        """Where the voxels of the grid lie to which pieces are brought; ``None`` if that is not so axis by axis."""
        return axes_to_source(_as_prepared(batch) if self._takes_nearest(batch) else batch, batch["image"].shape[2:])

    def _pieces(self, batch: Batch) -> Iterator[tuple[Piece | Everywhere, Tensor]]:
        """Go over one volume; yield pieces of its file, which may cover one another, and their logits."""
        axes, image = self._axes(batch) or [], batch["image"]
        nearest = _on_voxels(axes)

        def ask(windows: Tensor) -> Tensor:
            with self._network_on(batch):
                answer: Tensor = self(windows)
                require_size(answer, windows)
            return answer

        for block in self.inference.blocks(ask, image[0], self.window(image.shape[2:]), halo=int(not nearest)):
            for piece in pieces_of(block, axes, nearest):
                values = piece.block.values[None]
                yield piece, self.inference.resampled(values, self.head_channels, piece.resampled, batch)


def _on_voxels(axes: Sequence[Axis]) -> bool:
    """Whether all voxels of a file lie on voxels of the network's grid, so that nothing is interpolated."""
    return all(bool((axis.places == axis.places.round()).all()) for axis in axes)


def _as_prepared(batch: Batch) -> Batch:
    """A batch as if its file were on the grid that the network sees."""
    return {**batch, "source_affine": batch["affine"], "source_shape": [batch["image"].shape[2:]]}


def _depth(kind: type, name: str) -> int:
    """How far up the bases of a class is what defines a name."""
    return next(n for n, base in enumerate(kind.__mro__) if name in vars(base))
