"""From files to batches: cases, splits, volumes, patches, samplers and data modules."""

from typing import Any

import lit_continual
from lit_continual.data.batch import Batch as Batch
from lit_continual.data.batch import Sample as Sample
from lit_continual.data.batch import collate as collate
from lit_continual.data.case_lists.cases import Case as Case
from lit_continual.data.case_lists.cases import CaseList as CaseList
from lit_continual.data.case_lists.cases import read_cases as read_cases
from lit_continual.data.case_lists.splits import Split as Split
from lit_continual.data.case_lists.splits import check_leakage as check_leakage
from lit_continual.data.case_lists.splits import split_cases as split_cases
from lit_continual.data.decathlon_data_module import DecathlonDataModule as DecathlonDataModule
from lit_continual.data.joint_data_module import JointDataModule as JointDataModule
from lit_continual.data.loading import Loading as Loading
from lit_continual.data.multi_task_data_module import MultiTaskDataModule as MultiTaskDataModule
from lit_continual.data.patches import PatchDataset as PatchDataset
from lit_continual.data.preprocessing import Preprocessing as Preprocessing
from lit_continual.data.samplers import EpochSampler as EpochSampler
from lit_continual.data.samplers import WholeSampler as WholeSampler
from lit_continual.data.segmentation_data_module import Augmentation as Augmentation
from lit_continual.data.segmentation_data_module import SegmentationDataModule as SegmentationDataModule


def __getattr__(name: str) -> Any:
    """Find a data module or data set that has a room of its own, as configs name it."""
    if name in lit_continual.__all__:
        return getattr(lit_continual, name)
    raise AttributeError(f"There is no {name} in lit_continual.data.")
