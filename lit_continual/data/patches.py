"""Training samples: slices or patches of volumes, augmented the same whoever draws them and whenever."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from monai.data import get_track_meta, set_track_meta
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from tqdm.auto import tqdm
from typing_extensions import override

from lit_continual.runs.classes import TRANSFORMS
from lit_continual.runs.spec import Spec

FOREGROUND = 2 / 3  # share of patches that are centred on a revealed class
CENTRES = 10_000  # voxels remembered of each volume for that


class PatchDataset(Dataset[dict[str, Any]]):
    """Slices (2D) or random patches (3D) of volumes.

    The random state of a sample is made from the seed, the epoch and its index, so it does not depend on workers,
    ranks, or where a run was resumed. Two of three patches are centred on a voxel of a revealed class, as far as the
    borders allow, where the slice or the volume has one.

    Args:
        volumes: Mappings with ``image`` ``(C, H, W, D)``, ``label`` ``(1, H, W, D)``, ``classes`` and ``patient``, at
            least as large as a patch.
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
        self.targets: dict[str, list[Tensor]] = {}  # of each volume, (K, H, W, D), on its grid
        self.index: list[tuple[int, int]] = []  # volume and slice, or volume and number of the patch
        self.centres: list[Tensor] = []  # of each volume, some of its foreground voxels, by flat index
        for i, volume in enumerate(volumes):
            flat = len(self.patch_size) == 2
            self.index += [(i, z) for z in range(volume["image"].shape[-1] if flat else patches_per_volume)]
            if not flat:
                foreground = volume["label"].flatten().nonzero().flatten()
                self.centres.append(foreground[:: -(-len(foreground) // CENTRES) or 1].clone())
        self.spatial = Compose([TRANSFORMS.build(spec) for spec in spatial])
        self.intensity = Compose([TRANSFORMS.build(spec) for spec in intensity])

    def __len__(self) -> int:
        return len(self.index)

    @property
    def annotations(self) -> list[tuple[Tensor, list[str]]]:
        """The label map of each volume, ``(H, W, D)``, and the names of its values from 1."""
        return [(volume["label"][0], volume["classes"].split(",")) for volume in self.volumes]

    @property
    def foreground(self) -> list[bool]:
        """Which slices have a revealed class, or which patches are of a volume that has one."""
        if len(self.patch_size) == 3:
            return [len(self.centres[i]) > 0 for i, _ in self.index]
        has = [volume["label"][0].flatten(0, 1).any(0).tolist() for volume in self.volumes]
        return [has[i][z] for i, z in self.index]

    @override
    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, k = key if isinstance(key, tuple) else (0, key)
        random = np.random.default_rng([self.seed, epoch, k])
        volume, window = self.volumes[self.index[k][0]], self._window(k, random)
        layers = [volume["image"], *(targets[self.index[k][0]] for targets in self.targets.values())]
        sample: Any = {"image": torch.cat([x[window].float() for x in layers]), "label": volume["label"][window]}
        if self.spatial.transforms:
            sample = _transformed(self.spatial, sample, random)
            self._check(sample)
        image, *targets = torch.split(_plain(sample["image"]), [x.shape[0] for x in layers])
        if self.intensity.transforms:
            image = _plain(_transformed(self.intensity, {"image": image}, random)["image"])
        return {
            "image": image.contiguous(),
            "label": _plain(sample["label"]).to(torch.uint8).contiguous(),
            "classes": volume["classes"],
            "patient": volume["patient"],
            **{name: target.contiguous() for name, target in zip(self.targets, targets, strict=True)},
        }

    def ask(self, key: str, predict: Callable[[Tensor], Tensor]) -> None:
        """Ask a teacher about every volume and put its answers into the samples, as ``sample[key]``.

        Args:
            key: Name of the answers; in a sample they have gone through the spatial augmentation of the image.
            predict: Maps images ``(B, C, *patch_size)``, preprocessed but not augmented, to logits ``(B, K, …)``.
        """
        flat = len(self.patch_size) == 2
        window = [*self.patch_size] + [1] * flat
        ask = (lambda x: predict(x.squeeze(-1)).unsqueeze(-1)) if flat else predict
        inferer = SlidingWindowInferer(window, sw_batch_size=16, overlap=0.25, mode="gaussian")
        bar = tqdm(self.volumes, desc="Asking the teacher", leave=False, disable=None)
        self.targets[key] = [inferer(volume["image"][None], ask)[0].half() for volume in bar]

    def _window(self, k: int, random: np.random.Generator) -> tuple[Any, ...]:
        """Choose what is cut out of ``(C, H, W, D)`` for sample ``k``."""
        i, z = self.index[k]
        shape, size = self.volumes[i]["label"].shape[1:], np.array(self.patch_size)
        last = np.array(shape[: len(size)]) - size
        start = random.integers(0, last + 1)
        flat = len(size) == 2
        if last.any():
            centres = self.volumes[i]["label"][0, ..., z].flatten().nonzero().flatten() if flat else self.centres[i]
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


def _transformed(transforms: Compose, sample: dict[str, Any], random: np.random.Generator) -> Any:
    transforms.set_random_state(int(random.integers(2**32)))
    tracked = get_track_meta()
    set_track_meta(False)  # a patch has no place in the world any more, and keeping one takes half of the time
    try:
        return transforms(sample)
    finally:
        set_track_meta(tracked)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def place_in_fit(trainer: Trainer | None) -> tuple[int, int, int]:
    """Number of ranks, this one, and the epoch that a fit begins with, which is not the first when it is resumed.

    When the loaders are made, ``trainer.current_epoch`` does not count the epoch that ended with the checkpoint yet.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current if trainer is not None else None
    return (*_ranks(trainer), 0 if progress is None else progress.processed)


def whole_loader(volumes: Any, trainer: Trainer | None, batch_size: int = 1) -> Any:
    """Make the loader of an evaluation, whose volumes are divided among the ranks; no loader for no volumes."""
    return DataLoader(volumes, batch_size, sampler=WholeSampler(volumes, *_ranks(trainer))) if len(volumes) else []


def _ranks(trainer: Trainer | None) -> tuple[int, int]:
    """How many there are, and which this one is."""
    return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)


class EpochSampler(DistributedSampler[Any]):
    """Shuffle by seed and epoch, divide among the ranks, and tell the data set the epoch with every index.

    With the same global batch, the batches of any number of ranks hold the same samples.

    Args:
        dataset: What is sampled from.
        seed: Seed of the order.
        samples: How many of the shuffled samples make an epoch; ``None`` for all.
        num_replicas: Number of ranks.
        rank: This one.
        epoch: The epoch to begin with. When a fit is resumed, worker processes draw the first samples before Lightning
            says which epoch it is.
        share: Least share of an epoch that is drawn from the ``preferred``, again where they are too few.
        preferred: Which samples those are; asked for if there is a share.
    """

    def __init__(
        self,
        dataset: Any,
        seed: int,
        samples: int | None,
        num_replicas: int,
        rank: int,
        epoch: int = 0,
        share: float | None = None,
        preferred: Callable[[], Sequence[bool]] = list,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        self.epoch, self.share = epoch, share
        self.preferred = np.array(preferred() if share else [], dtype=bool)
        total = min(samples or len(dataset), len(dataset))
        self.num_samples = -(-total // num_replicas)

    @override
    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, k) for k in self.order()[self.rank :: self.num_replicas]])

    def order(self) -> list[int]:
        """The samples of this epoch, of all ranks together."""
        size = len(self.dataset)  # type: ignore[arg-type]
        random = np.random.default_rng([self.seed, self.epoch])
        order, total = random.permutation(size), self.num_samples * self.num_replicas
        if self.share and self.preferred.any():
            first = np.resize(order[self.preferred[order]], ceil(self.share * total))
            order = random.permutation([*first, *order[~np.isin(order, first)]][:total])
        return [int(k) for k in np.resize(order, total)]


class WholeSampler(DistributedSampler[Any]):
    """Divide cases among the ranks in their order, none twice, whatever their number.

    Args:
        dataset: What is sampled from.
        num_replicas: Number of ranks.
        rank: This one.
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        self.num_samples = len(range(rank, len(dataset), num_replicas))

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]
