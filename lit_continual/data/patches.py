"""Training samples: slices or patches of volumes, augmented the same whoever draws them and whenever."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandCropByPosNegLabeld, RandSpatialCropd
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler
from typing_extensions import override

from lit_continual.spec import build


class PatchDataset(Dataset[dict[str, Any]]):
    """Slices (2D) or random patches (3D) of volumes.

    The random state of a sample is made from the seed, the epoch and its index, so it does not depend on workers,
    ranks, or where a run was resumed.

    Args:
        volumes: Mappings with ``image`` ``(C, H, W, D)``, ``label`` ``(1, H, W, D)``, ``classes`` and ``patient``.
        patch_size: In voxels, two numbers for slices along the last axis, three for patches.
        spatial: MONAI dictionary transforms of ``image`` and ``label``, as ``class_path`` and ``init_args``. Cached
            targets ride through them as further channels of the image.
        intensity: MONAI dictionary transforms of ``image`` alone.
        patches_per_volume: How often a volume is drawn from in an epoch; 3D only.
        seed: Seed of all randomness.
    """

    def __init__(
        self,
        volumes: Sequence[Mapping[str, Any]],
        patch_size: Sequence[int],
        spatial: Sequence[Mapping[str, Any]] = (),
        intensity: Sequence[Mapping[str, Any]] = (),
        patches_per_volume: int = 4,
        seed: int = 0,
    ) -> None:
        self.volumes, self.patch_size, self.seed = volumes, tuple(patch_size), seed
        self.targets: dict[str, list[Tensor]] = {}  # of each volume, (K, H, W, D), on its grid
        depths = [v["image"].shape[-1] if len(patch_size) == 2 else patches_per_volume for v in volumes]
        self.index = [(i, z) for i, depth in enumerate(depths) for z in range(depth)]
        keys = {"keys": ["image", "label"]}
        crop = (
            RandSpatialCropd(**keys, roi_size=self.patch_size, random_size=False)
            if len(patch_size) == 2
            else RandCropByPosNegLabeld(**keys, label_key="label", spatial_size=self.patch_size, pos=2, neg=1)
        )
        self.spatial = Compose([crop, *(build(spec, ["monai.transforms"]) for spec in spatial)])
        self.intensity = Compose([build(spec, ["monai.transforms"]) for spec in intensity])

    def __len__(self) -> int:
        return len(self.index)

    @override
    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, k = key if isinstance(key, tuple) else (0, key)
        seeds = np.random.SeedSequence([self.seed, epoch, k]).generate_state(2)
        self.spatial.set_random_state(int(seeds[0]))
        self.intensity.set_random_state(int(seeds[1]))
        i, z = self.index[k]
        volume = self.volumes[i]
        layers = [volume["image"], *(targets[i].float() for targets in self.targets.values())]
        flat = len(self.patch_size) == 2
        sample: Any = {"image": torch.cat([x[..., z] if flat else x for x in layers])}
        sample["label"] = volume["label"][..., z] if flat else volume["label"]
        sample = self.spatial(sample)
        sample = sample[0] if isinstance(sample, list) else sample
        image, *targets = torch.as_tensor(sample["image"]).split([x.shape[0] for x in layers])
        image = self.intensity({"image": image})["image"] if self.intensity.transforms else image
        return {
            "image": _plain(image),
            "label": _plain(sample["label"]),
            "classes": volume["classes"],
            "patient": volume["patient"],
            **{name: _plain(target) for name, target in zip(self.targets, targets, strict=True)},
        }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor).contiguous()


class EpochSampler(DistributedSampler[Any]):
    """Shuffle by seed and epoch, divide among the ranks, and tell the data set the epoch with every index.

    With the same global batch, the batches of any number of ranks hold the same samples.

    Args:
        dataset: What is sampled from.
        seed: Seed of the order.
        samples: How many of the shuffled samples make an epoch; ``None`` for all.
        num_replicas: Number of ranks.
        rank: This one.
    """

    def __init__(self, dataset: Any, seed: int, samples: int | None, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        total = min(samples or len(dataset), len(dataset))
        self.num_samples = -(-total // num_replicas)

    @override
    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()  # type: ignore[arg-type]
        total = self.num_samples * self.num_replicas
        order = (order * -(-total // len(order)))[:total]
        return iter([(self.epoch, k) for k in order[self.rank :: self.num_replicas]])


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
