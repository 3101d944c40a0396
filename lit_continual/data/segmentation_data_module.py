"""Labelled volumes for training a segmenter, and the same volumes whole to evaluate it on."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from monai.transforms import SpatialPad
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import Self, override

from lit_continual.data.arguments import MOST_WORKERS, require_at_least
from lit_continual.data.batch import class_names, collate
from lit_continual.data.cache.volume_cache import VolumeCache
from lit_continual.data.case_lists.cases import Case, CaseList, read_cases
from lit_continual.data.case_lists.revealed_classes import require_names, values_of
from lit_continual.data.case_lists.splits import Split, split_cases
from lit_continual.data.label_values import require_label_maps, require_taught
from lit_continual.data.loading import Loading
from lit_continual.data.patches import PatchDataset
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.data.samplers import EpochSampler, place_in_fit, ranks, whole_loader
from lit_continual.data.volumes import load_evaluation_volume, load_training_volume
from lit_continual.files.whole_files import in_one_line
from lit_continual.runs.checkpoints.spec import Spec


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training sample, each a MONAI dictionary transform as ``class_path`` and ``init_args``.

    Args:
        spatial: Transforms of ``image`` and ``label`` together.
        intensity: Transforms of ``image`` alone.
    """

    spatial: tuple[Spec, ...] = ()
    intensity: tuple[Spec, ...] = ()


class SegmentationDataModule(LightningDataModule):
    """One experience of a segmenter: some patients of a data set, of whom some classes are revealed.

    Batches are those of :class:`~lit_continual.data.Batch`: in training ``image`` ``(B, C, *patch_size)``, ``label``,
    ``classes`` and ``patient``; in evaluation one whole volume each, the label in the grid of its file.

    Args:
        dataset: A Decathlon ``dataset.json``, a CSV table or a folder; see ``read_cases``.
        patch_size: In voxels: two numbers for slices along the last axis, three for 3D patches.
        classes: Revealed classes, name to label value, or to the name that the data set has for it. An experience of
            a stream gives its own.
        batch_size: Samples of a batch, on each rank.
        split: Which patients train, validate and test.
        preprocessing: Grid and intensity scale of every image.
        augmentation: Random changes of training samples.
        samples_per_epoch: How many of the shuffled samples make an epoch, at most all; ``None`` for all.
        foreground: Least share of an epoch's samples that are slices with a revealed class, for small lesions in many
            slices; ``None`` takes slices as they come.
        patches_per_volume: How often a volume is drawn from in an epoch; 3D only.
        cache: Keep loaded volumes, and cached targets, in ``"memory"`` as long as a fit or an evaluation lasts, or on
            ``"disk"``, in files of the cache folder that are mapped into memory and that later runs use again.
        num_workers: Processes that augment; 0 for none.
        seed: Seed of order and augmentation; ``None`` takes that of ``seed_everything``.
        episodes: Arguments of ``Episodes``, which a ``MetaTune`` without its own reads; nobody else does.
        loading: How fast data come, at which price in memory; changes no result.

    Raises:
        ValueError: For a bad argument or bad data, with the file and the remedy; see ``read_cases`` and ``load_case``.
    """

    _load_training, _load_evaluation = staticmethod(load_training_volume), staticmethod(load_evaluation_volume)

    def __init__(
        self,
        dataset: str,
        patch_size: list[int],
        classes: dict[str, int | str] | None = None,
        batch_size: int = 8,
        split: Split = Split(),
        preprocessing: Preprocessing = Preprocessing(),
        augmentation: Augmentation = Augmentation(),
        samples_per_epoch: int | None = None,
        foreground: float | None = None,
        patches_per_volume: int = 4,
        cache: Literal["memory", "disk"] = "memory",
        num_workers: int = 0,
        seed: int | None = None,
        episodes: dict[str, Any] | None = None,
        loading: Loading | None = None,
    ) -> None:
        super().__init__()
        if len(patch_size) not in (2, 3) or min(patch_size) < 1:
            raise ValueError(f"`patch_size` must be two or three positive numbers of voxels, got {patch_size}.")
        require_names(classes or {})
        require_at_least(1, batch_size=batch_size, patches_per_volume=patches_per_volume)
        require_at_least(1, samples_per_epoch=samples_per_epoch)
        require_at_least(0, seed=seed)
        require_at_least(0, MOST_WORKERS, num_workers=num_workers)
        if foreground is not None and not 0 <= foreground <= 1:
            raise ValueError(f"`foreground` is a share between 0 and 1, got {foreground}.")
        self.dataset, self.classes, self.patch_size = dataset, dict(classes or {}), tuple(patch_size)
        self.batch_size, self.split, self.preprocessing = batch_size, split, preprocessing
        self.augmentation, self.samples_per_epoch = augmentation, samples_per_epoch
        self.patches_per_volume, self.cache, self.num_workers = patches_per_volume, cache, num_workers
        self.episodes, self.foreground, self.loading = episodes, foreground, loading or Loading()
        self.seed = int(os.environ.get("PL_GLOBAL_SEED") or 0) if seed is None else seed
        self._evaluation: dict[str, VolumeCache] = {}
        self.save_hyperparameters({"preprocessing": asdict(preprocessing), "classes": self.classes}, logger=False)

    @cached_property
    def listed(self) -> CaseList:
        """The data set's list of cases."""
        return read_cases(self.dataset)

    @cached_property
    def cases(self) -> dict[str, list[Case]]:
        """The cases of each split, ``train``, ``val`` and ``test``; reads the list but no image."""
        return split_cases(self.listed.cases, self.split, self.listed.source)

    @cached_property
    def values(self) -> dict[str, int]:
        """Label value of each revealed class; see :func:`values_of`."""
        return values_of(self.classes, self.listed)

    def revealing(self, classes: Mapping[str, int | str]) -> Self:
        """Return the same patients with ``classes`` revealed instead."""
        other = copy.copy(self)
        other.classes, other._evaluation = dict(classes), {}
        for name in ("values", "train_dataset"):
            other.__dict__.pop(name, None)
        return other

    def rehearse(self) -> None:
        """Look at every label map, as a stream does before its first fit; see :func:`.require_label_maps`."""
        require_label_maps(self.cases, self.values, self.listed, self.loading.threads)

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit":
            _ = self.train_dataset
        split = "test" if stage == "test" else "val"
        if stage != "fit" and not self.cases[split]:
            raise ValueError(f"The {split} split of {self.listed.source} is empty: {self.split}. Change `split`.")
        self._evaluation_volumes(split)

    @override
    def teardown(self, stage: str) -> None:
        """Let go of volumes, targets, and the trainer whose loaders hold them; a stream keeps its data modules."""
        for volumes in self._evaluation.values():
            volumes.close()
        self._evaluation.clear()
        if "train_dataset" in self.__dict__:
            self.__dict__.pop("train_dataset").close()
        self.trainer = None

    @override
    def on_exception(self, exception: BaseException) -> None:
        self.teardown("fit")  # which Lightning does not call then

    @cached_property
    def train_dataset(self) -> PatchDataset:
        """The training samples, from :meth:`setup` to :meth:`teardown`; loaded again where they are asked for later."""
        return self.patches()

    def patches(self) -> PatchDataset:
        """Load the training volumes and return their samples.

        Raises:
            ValueError: If a file is bad, a class occurs in no training case, or the augmentation fails.
        """
        volumes = self._volumes(
            "train",
            lambda case: self._load_training(case, self.values, self.listed, self.preprocessing, self.patch_size),
            "training volumes",
            self.patch_size,
        )
        present = {value for one in volumes.foregrounds for value in one.values}
        require_taught({name: k in present for k, name in enumerate(self.classes, 1)}, len(volumes), self.listed)
        dataset = self._samples(volumes)
        try:
            dataset.rehearse()  # in a worker process, and in the middle of a fit, errors are long
        except Exception as error:
            cause = in_one_line(error.__cause__ or error)  # MONAI wraps what a transform says
            raise ValueError(
                f"`augmentation` fails on the training cases of {self.listed.source} ({cause}). Correct its transforms."
            ) from error
        return dataset

    def _samples(self, volumes: Sequence[Mapping[str, Any]]) -> PatchDataset:
        spatial, intensity = self.augmentation.spatial, self.augmentation.intensity
        return PatchDataset(volumes, self.patch_size, spatial, intensity, self.patches_per_volume, self.seed)

    def replayed(self, volumes: Sequence[Mapping[str, Any]]) -> PatchDataset:
        """Return volumes of other experiences as samples, padded and augmented like those of this one."""
        pad = SpatialPad((*self.patch_size, *[1] * (3 - len(self.patch_size))))
        padded = [{**v, **{k: pad(v[k]).as_tensor() for k in ("image", "label")}} for v in volumes]
        return self._samples([{**v, "classes": class_names(v["classes"])} for v in padded])

    def annotations(self) -> list[tuple[Tensor, list[str]]]:
        """Return the label map of each training volume, ``(H, W, D)``, and the names of its values from 1."""
        return self.train_dataset.annotations

    def _evaluation_volumes(self, split: str) -> VolumeCache:
        if split not in self._evaluation:
            self._evaluation[split] = self._volumes(
                split,
                lambda case: self._load_evaluation(case, self.values, self.listed, self.preprocessing),
                f"{split} volumes",
                None,
            )
        return self._evaluation[split]

    def _volumes(self, split: str, load: Callable[[Case], Any], name: str, patch: Sequence[int] | None) -> VolumeCache:
        code = self._load_training.__module__, self._load_training.__qualname__
        key = repr((self.values, self.listed.labels, self.preprocessing, code, patch))
        place, threads = ranks(self.trainer), self.loading.threads
        return VolumeCache(self.cases[split], load, self.cache, key, name, patch, threads, place)

    @override
    def train_dataloader(self) -> Any:
        data, place = self.train_dataset, place_in_fit(self.trainer)
        chosen = self.foreground, lambda: data.foreground, data.old_slices
        order = EpochSampler(data, self.seed, self.samples_per_epoch, *place, *chosen)
        options = self.loading.options(self.num_workers, self.trainer)
        return DataLoader(data, self.batch_size, sampler=order, collate_fn=collate, **options)

    @override
    def val_dataloader(self) -> Any:
        return whole_loader(self._evaluation_volumes("val"), self.trainer)

    @override
    def test_dataloader(self) -> Any:
        return whole_loader(self._evaluation_volumes("test"), self.trainer)

    def cache_targets(self, key: str, predict: Callable[[Tensor], Tensor]) -> None:
        """Ask a teacher about every training volume and put its answers into the batches, as ``batch[key]``.

        Args:
            key: Name of the answers in the batch; there they have gone through the spatial augmentation of the image.
            predict: Maps images ``(B, C, *patch_size)``, preprocessed but not augmented, to logits ``(B, K, …)``.
        """
        self.train_dataset.ask(key, predict)

    def centre_patches(self, predict: Any, labels: Any, share: float) -> None:
        """Centre training patches on classes that are not annotated too; see :meth:`.PatchDataset.centre`."""
        self.train_dataset.centre(predict, labels, share, slices=bool(self.foreground) and len(self.patch_size) == 2)
