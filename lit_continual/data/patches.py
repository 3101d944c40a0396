"""Training samples: slices or patches of volumes, augmented the same whoever draws them and whenever."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from typing_extensions import override

from lit_continual.data.batch import Sample
from lit_continual.data.cache.volume_cache import Room, filled
from lit_continual.data.foreground import Foreground
from lit_continual.data.old_classes import OldClasses
from lit_continual.data.random_changes import certain, transformed
from lit_continual.data.shared_epoch import SharedEpoch
from lit_continual.runs.checkpoints.classes import TRANSFORMS
from lit_continual.runs.checkpoints.spec import Spec
from lit_continual.windows.stitching import blocks

FOREGROUND = 2 / 3  # share of patches that are centred on a revealed class


class PatchDataset(Dataset[Sample]):
    """Slices (2D) or random patches (3D) of volumes.

    The random state of a sample is made from the seed, the epoch and its index, so it does not depend on workers,
    ranks, or where a run was resumed. ``set_epoch`` says the epoch, and :class:`EpochSampler` calls it. Two of three
    patches are centred on a voxel of a revealed class, as far as the borders allow, where the slice or the volume has
    one.

    Args:
        volumes: Mappings with ``image`` ``(C, H, W, D)``, ``label`` ``(1, H, W, D)``, ``classes`` and ``patient``, at
            least as large as a patch. A sequence may know its ``foregrounds``, a :class:`Foreground` each, and keep
            tensors ``beside`` its volumes, as a ``VolumeCache`` does; it is asked for a volume once a sample.
        patch_size: In voxels, two numbers for slices along the last axis, three for patches.
        spatial: MONAI dictionary transforms of ``image`` and ``label``, as ``class_path`` and ``init_args``. Cached
            targets ride through them as further channels of the image.
        intensity: MONAI dictionary transforms of ``image`` alone.
        patches_per_volume: How often a volume is drawn from in an epoch; 3D only.
        seed: Seed of all randomness.

    Raises:
        ValueError: If a transform is unknown, or, when a sample is drawn, changes its size or mixes label values.
    """

    def __init__(
        self,
        volumes: Sequence[Mapping[str, Any]],
        patch_size: Sequence[int],
        spatial: Sequence[Spec] = (),
        intensity: Sequence[Spec] = (),
        patches_per_volume: int = 4,
        seed: int = 0,
    ) -> None:
        self.volumes, self.patch_size, self.seed = volumes, tuple(patch_size), seed
        self.epoch = SharedEpoch()
        self.targets: dict[str, Sequence[Tensor]] = {}  # of each volume, (K, H, W, D), on its grid
        self.old = OldClasses()  #: Classes that are not annotated, where patches are centred on them too.
        flat = len(self.patch_size) == 2
        known: list[Foreground] = getattr(volumes, "foregrounds", [])
        #: Of each volume, where its classes are.
        self.foregrounds = known or [Foreground.of(volume["label"], centres=not flat) for volume in volumes]
        #: Volume and slice, or volume and number of the patch.
        self.index = [
            (i, z)
            for i, one in enumerate(self.foregrounds)
            for z in range(len(one.slices) if flat else patches_per_volume)
        ]
        self.spatial = Compose([TRANSFORMS.build(spec) for spec in spatial])
        self.intensity = Compose([TRANSFORMS.build(spec) for spec in intensity])

    def __len__(self) -> int:
        return len(self.index)

    @property
    def annotations(self) -> list[tuple[Tensor, list[str]]]:
        """The label map of each volume, ``(H, W, D)``, and the names of its values from 1."""
        return [(volume["label"][0], list(volume["classes"])) for volume in self.volumes]

    @property
    def foreground(self) -> list[bool]:
        """Which slices have a revealed class, or which patches are of a volume that has one."""
        if len(self.patch_size) == 3:
            return [any(self.foregrounds[i].slices) for i, _ in self.index]
        return [self.foregrounds[i].slices[z] for i, z in self.index]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch samples are drawn for, in this process and in those that load for it."""
        self.epoch.value = epoch

    @override
    def __getitem__(self, k: int) -> Sample:
        random = np.random.default_rng([self.seed, self.epoch.value, k])
        volume = self.volumes[self.index[k][0]]
        window = self._window(volume["label"], k, random)
        layers = [volume["image"], *(targets[self.index[k][0]] for targets in self.targets.values())]
        (image, *targets), label = self._augmented(volume, layers, window, random)
        drawn = {
            "image": image.contiguous(),
            "label": label.to(torch.uint8).contiguous(),
            "classes": volume["classes"],
            "patient": volume["patient"],
            **{name: target.contiguous() for name, target in zip(self.targets, targets, strict=True)},
        }
        return cast(Sample, drawn)

    def rehearse(self) -> None:
        """Draw a sample to which each transform is applied, whatever its probability, and let go of it."""
        tried, where = copy.copy(self), self.foreground
        tried.spatial, tried.intensity = certain(self.spatial), certain(self.intensity)
        _ = tried[where.index(max(where))]

    def _augmented(
        self, volume: Mapping[str, Any], layers: list[Tensor], window: tuple[Any, ...], random: np.random.Generator
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Cut a sample out of the image of a volume and the targets, its ``layers``, and change it at random.

        Returns:
            What has become of the layers, and the label map.
        """
        sample: Any = {"image": torch.cat([x[window].float() for x in layers]), "label": volume["label"][window]}
        if self.spatial.transforms:
            sample = transformed(self.spatial, sample, random)
            self._check(sample)
        image, *targets = torch.split(_plain(sample["image"]), [x.shape[0] for x in layers])
        if self.intensity.transforms:
            image = _plain(transformed(self.intensity, {"image": image}, random)["image"])
        return [image, *targets], _plain(sample["label"])

    def ask(self, key: str, predict: Callable[[Tensor], Tensor]) -> None:
        """Ask a teacher about every volume and put its answers into the samples, as ``sample[key]``.

        Args:
            key: Name of the answers; in a sample they have gone through the spatial augmentation of the image.
            predict: Maps images ``(B, C, *patch_size)``, preprocessed but not augmented, to logits ``(B, K, …)``.
        """
        bar = tqdm(self.volumes, desc="Asking the teacher", leave=False, disable=None)
        answers = (partial(_answered, predict, volume["image"], self.patch_size) for volume in bar)
        self.targets[key] = getattr(self.volumes, "beside", filled)(answers)

    def centre(
        self,
        predict: Callable[[Tensor], Tensor],
        labels: Callable[[Tensor], Tensor],
        share: float,
        slices: bool = False,
    ) -> None:
        """Centre a share of the patches on classes that are not annotated, each as often.

        Args:
            predict: Maps images ``(B, C, *patch_size)``, preprocessed but not augmented, to logits ``(B, K, …)``.
            labels: Maps logits of a volume, ``(1, K, …)``, to a label map ``(1, …)``, in which 0 is no class.
            share: Of the patches that are centred on a class; all are, where none is annotated.
            slices: Whether the sampler chooses slices for a class, and so for these too, by :meth:`old_slices`.

        Warns where every patch is a whole slice or volume, which nothing centres, and no slice is chosen.
        """
        n = len(self.patch_size)
        whole = [tuple(volume["image"].shape[1 : 1 + n]) == self.patch_size for volume in self.volumes]
        if slices or not all(whole):
            self.old.share, wanted = share, [slices or not one for one in whole]
            self.old.look(self.volumes, predict, labels, self.patch_size, wanted)
            return
        size, remedy = " x ".join(map(str, self.patch_size)), " Leave `old_patches` out, or make `patch_size` smaller"
        remedy += "." if n == 3 else ", or give `data.foreground`, for which slices are chosen."
        rank_zero_warn(
            f"A patch of {size} is the whole of each training slice or volume, so none is centred on old classes."
            + remedy
        )

    def old_slices(self) -> list[tuple[float, list[int]]]:
        """Shares of the samples that are chosen for a class, and which samples show the old class they are for."""
        if len(self.patch_size) == 3:
            return []
        return list(self.old.slices(self.index, [len(one.slices) for one in self.foregrounds]))

    def close(self) -> None:
        """Let go of the volumes and the targets, whoever holds this."""
        self.targets.clear()
        self.old.found.clear()
        if hasattr(self.volumes, "close"):
            self.volumes.close()

    def _window(self, label: Tensor, k: int, random: np.random.Generator) -> tuple[Any, ...]:
        """Choose what is cut out of ``(C, H, W, D)`` for sample ``k``."""
        i, z = self.index[k]
        shape, size = label.shape[1:], np.array(self.patch_size)
        last = np.array(shape[: len(size)]) - size
        start = random.integers(0, last + 1)
        flat = len(size) == 2
        if last.any():
            centres = label[0, ..., z].flatten().nonzero().flatten() if flat else self.foregrounds[i].centres
            centres = self.old.centres(i, centres, random, *((shape[-1], z) if flat else ()))
            if len(centres) and random.random() < FOREGROUND:
                centre = np.unravel_index(int(centres[random.integers(len(centres))]), shape[: len(size)])
                start = np.clip(np.array(centre) - size // 2, 0, last)
        box = [slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True)]
        return (slice(None), *box, z) if flat else (slice(None), *box)

    def _check(self, sample: Mapping[str, Any]) -> None:
        for name in ("image", "label"):
            if (size := tuple(sample[name].shape[1:])) != self.patch_size:
                raise ValueError(
                    f"`augmentation.spatial` makes the {name} {size} of a patch of {self.patch_size}. Use transforms"
                    " that keep the size, on the keys [image, label]."
                )
        label = _plain(sample["label"])
        if label.is_floating_point() and not torch.equal(label, label.round()):
            raise ValueError(
                "`augmentation.spatial` interpolates between label values. Give its transforms `keys: [image, label]`"
                " and `mode: [bilinear, nearest]`."
            )


@torch.no_grad()
def _answered(predict: Callable[[Tensor], Tensor], image: Tensor, window: Sequence[int], room: Room) -> Tensor:
    """Put what a network makes of the windows of a volume, block by block, into the room for it."""
    found: Tensor | None = None
    for block in blocks(predict, image, window):
        if found is None:
            found = room((len(block.values), *image.shape[1:]))
        where = (slice(s, s + n) for s, n in zip(block.start, block.values.shape[1:], strict=True))
        found[(slice(None), *where)] = block.values
    assert found is not None  # there is a window
    return found


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)
