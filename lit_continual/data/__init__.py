"""DataModules and datasets: Decathlon lists, folders, tables, phantoms, the exemplar memory."""

from lit_continual.data.cases import Case, CaseList, read_cases
from lit_continual.data.joint_data_module import JointDataModule
from lit_continual.data.patches import EpochSampler, PatchDataset, WholeSampler
from lit_continual.data.segmentation_data_module import Augmentation, SegmentationDataModule
from lit_continual.data.splits import Split, check_leakage, split_cases
from lit_continual.data.volumes import Preprocessing

__all__ = [
    "Augmentation",
    "Case",
    "CaseList",
    "EpochSampler",
    "JointDataModule",
    "PatchDataset",
    "Preprocessing",
    "SegmentationDataModule",
    "Split",
    "WholeSampler",
    "check_leakage",
    "read_cases",
    "split_cases",
]
