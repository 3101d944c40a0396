"""Several data sets in one fit."""

from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from typing_extensions import override

from lit_continual.data.case_lists.cases import Case
from lit_continual.data.case_lists.splits import SPLITS
from lit_continual.data.samplers import whole_loader
from lit_continual.data.segmentation_data_module import SegmentationDataModule


class MultiTaskDataModule(LightningDataModule):
    """Draw a batch of every task at every step, with each task's own classes, patch size and batch size.

    Training batches map task -> batch of :class:`SegmentationDataModule`. Evaluation goes through the volumes of one
    task after another.

    Args:
        tasks: The data module of each task, by name. No class may be in two of them.
        mode: When an epoch ends: with the longest task, while shorter ones start anew, or with the shortest.

    Raises:
        ValueError: If there is no task, or two of them share a class.
    """

    def __init__(
        self,
        tasks: dict[str, SegmentationDataModule],
        mode: Literal["max_size_cycle", "min_size"] = "max_size_cycle",
    ) -> None:
        super().__init__()
        owners: dict[str, str] = {}
        for task, part in tasks.items():
            for name in part.classes:
                if name in owners:
                    raise ValueError(
                        f"Class {name} is in the tasks {owners[name]} and {task}: give it a name of its own in one of"
                        f" them, as `classes: {{{task}_{name}: {name}}}`."
                    )
                owners[name] = task
        if not tasks:
            raise ValueError("`tasks` must name at least one data module.")
        self.tasks, self.mode = dict(tasks), mode
        self.classes = {name: value for part in self.tasks.values() for name, value in part.classes.items()}
        self.patch_size = tuple(max(sizes) for sizes in zip(*(part.patch_size for part in tasks.values()), strict=True))

    @property
    def head_classes(self) -> list[list[str]]:
        """Classes of each task, which are learnt under one head."""
        return [list(part.classes) for part in self.tasks.values()]

    @property
    def cases(self) -> dict[str, list[Case]]:
        """The cases of each split, of all tasks."""
        return {split: [case for part in self.tasks.values() for case in part.cases[split]] for split in SPLITS}

    def rehearse(self) -> None:
        """Look at the label maps of all tasks; see :class:`SegmentationDataModule`."""
        for part in self.tasks.values():
            part.rehearse()

    @override
    def setup(self, stage: str) -> None:
        for part in self.tasks.values():
            part.trainer = self.trainer
            part.setup(stage)

    @override
    def teardown(self, stage: str) -> None:
        for part in self.tasks.values():
            part.teardown(stage)
        self.trainer = None

    @override
    def on_exception(self, exception: BaseException) -> None:
        self.teardown("fit")  # which Lightning does not call then

    def annotations(self) -> list[tuple[Tensor, list[str]]]:
        """Return the label maps of all tasks; see :class:`SegmentationDataModule`."""
        return [found for part in self.tasks.values() for found in part.annotations()]

    @override
    def train_dataloader(self) -> CombinedLoader:
        return CombinedLoader({task: part.train_dataloader() for task, part in self.tasks.items()}, self.mode)

    @override
    def val_dataloader(self) -> Any:
        return self._whole({task: part.val_dataloader() for task, part in self.tasks.items()})

    @override
    def test_dataloader(self) -> Any:
        return self._whole({task: part.test_dataloader() for task, part in self.tasks.items()})

    def _whole(self, loaders: Mapping[str, Any]) -> Any:
        volumes = [loader.dataset for loader in loaders.values() if isinstance(loader, DataLoader)]
        return whole_loader(ConcatDataset(volumes) if volumes else [], self.trainer)
