"""Several experiences at once: the bound that continual learning is measured against."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from typing_extensions import override

from lit_continual.data.batch import Sample, collate
from lit_continual.data.patches import PatchDataset
from lit_continual.data.samplers import EpochSampler, place_in_fit, whole_loader
from lit_continual.data.segmentation_data_module import SegmentationDataModule


class _JointDataset(ConcatDataset[Sample]):
    """Patch data sets one after another, all in one epoch."""

    def set_epoch(self, epoch: int) -> None:
        for part in self.datasets:
            part.set_epoch(epoch)  # type: ignore[attr-defined]  # a `PatchDataset`

    def close(self) -> None:
        for part in self.datasets:
            part.close()  # type: ignore[attr-defined]


class JointDataModule(LightningDataModule):
    """Train on the samples of several experiences together, with nothing withheld.

    Experiences whose data sets have the same annotations, which are one data set or declare the same labels, reveal
    the classes of all of them, under one head. An experience of another data set reveals its own, under its own head.

    Args:
        parts: The experiences' data modules; batch size, workers, seed and share of foreground are those of the first.

    Raises:
        ValueError: If a part is no ``SegmentationDataModule``, or two parts give one label value two names.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        for part in parts:
            if not isinstance(part, SegmentationDataModule):
                raise ValueError(f"Joint training needs SegmentationDataModules, got {type(part).__name__}.")
        revealed: dict[Any, dict[str, int | str]] = {}
        for part in parts:
            revealed.setdefault(_annotations(part), {}).update(part.classes)
        self.parts: list[SegmentationDataModule] = [part.revealing(revealed[_annotations(part)]) for part in parts]
        self.patch_size = self.parts[0].patch_size
        self.classes = {name: value for part in self.parts for name, value in part.classes.items()}
        self.save_hyperparameters({**self.parts[0].hparams, "classes": self.classes}, logger=False)

    @property
    def head_classes(self) -> list[list[str]]:
        """Groups of classes that are annotated together."""
        return [list(classes) for classes in dict.fromkeys(tuple(part.classes) for part in self.parts)]

    @override
    def setup(self, stage: str) -> None:
        _ = self.train_dataset

    @cached_property
    def train_dataset(self) -> _JointDataset:
        """The training samples of all parts, until :meth:`teardown`."""
        return _JointDataset([part.patches() for part in self.parts])

    @override
    def teardown(self, stage: str) -> None:
        """Let go of volumes, targets, and the trainer whose loaders hold them; a stream keeps its data modules."""
        for part in self.parts:
            part.teardown(stage)
        if "train_dataset" in self.__dict__:
            self.__dict__.pop("train_dataset").close()
        self.trainer = None

    @override
    def on_exception(self, exception: BaseException) -> None:
        self.teardown("fit")  # which Lightning does not call then

    def annotations(self) -> list[tuple[Tensor, list[str]]]:
        """Return the label maps of all parts; see :class:`SegmentationDataModule`."""
        parts: list[PatchDataset] = self.train_dataset.datasets  # type: ignore[assignment]
        return [found for part in parts for found in part.annotations]

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        first = self.parts[0]
        data: list[PatchDataset] = self.train_dataset.datasets  # type: ignore[assignment]
        sizes = [len(dataset) for dataset in data]
        samples = [min(part.samples_per_epoch or n, n) for part, n in zip(self.parts, sizes, strict=True)]
        return DataLoader(
            self.train_dataset,
            first.batch_size,
            sampler=EpochSampler(
                self.train_dataset,
                first.seed,
                sum(samples),
                *place_in_fit(self.trainer),
                first.foreground,
                lambda: [found for dataset in data for found in dataset.foreground],
            ),
            collate_fn=collate,
            **first.loading.options(first.num_workers, self.trainer),
        )

    @override
    def val_dataloader(self) -> Any:
        parts = [part._evaluation_volumes("val") for part in self.parts if part.cases["val"]]
        return whole_loader(ConcatDataset(parts) if parts else [], self.trainer)  # type: ignore[arg-type]


def _annotations(part: SegmentationDataModule) -> Any:
    """What two data sets share if the classes of each are annotated in the other."""
    return tuple(sorted(part.listed.labels.items())) or part.listed.source
