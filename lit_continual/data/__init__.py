"""From files to batches: cases, splits, volumes, patches, samplers and data modules."""

from typing import Any

import lit_continual
from lit_continual.data.batch import Batch, Sample, collate
from lit_continual.data.cases import Case, CaseList, read_cases
from lit_continual.data.decathlon_data_module import DecathlonDataModule
from lit_continual.data.joint_data_module import JointDataModule
from lit_continual.data.loading import Loading
from lit_continual.data.multi_task_data_module import MultiTaskDataModule
from lit_continual.data.patches import PatchDataset
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.data.samplers import EpochSampler, WholeSampler
from lit_continual.data.segmentation_data_module import Augmentation, SegmentationDataModule
from lit_continual.data.splits import Split, check_leakage, split_cases

__all__ = [
    "Augmentation",
    "Batch",
    "Case",
    "CaseList",
    "DecathlonDataModule",
    "EpochSampler",
    "JointDataModule",
    "Loading",
    "MultiTaskDataModule",
    "PatchDataset",
    "Preprocessing",
    "Sample",
    "SegmentationDataModule",
    "Split",
    "WholeSampler",
    "check_leakage",
    "collate",
    "read_cases",
    "split_cases",
]


def __getattr__(name: str) -> Any:
    """Find a data module or data set that has a room of its own, as configs name it."""
    if name in lit_continual.__all__:
        return getattr(lit_continual, name)
    raise AttributeError(f"There is no {name} in lit_continual.data.")
