"""DataModules and datasets: Decathlon lists, folders, tables, phantoms, the exemplar memory."""

from lit_continual.data.cases import Case, CaseList, read_cases
from lit_continual.data.decathlon_data_module import DecathlonDataModule
from lit_continual.data.joint_data_module import JointDataModule
from lit_continual.data.patches import EpochSampler, PatchDataset, WholeSampler
from lit_continual.data.segmentation_data_module import Augmentation, SegmentationDataModule
from lit_continual.data.shoulder_data_module import ShoulderDataModule
from lit_continual.data.shoulder_phantom import shoulder_subject, write_shoulder_phantom
from lit_continual.data.splits import Split, check_leakage, split_cases
from lit_continual.data.volumes import Preprocessing

__all__ = [
    "Augmentation",
    "Case",
    "CaseList",
    "DecathlonDataModule",
    "EpochSampler",
    "JointDataModule",
    "PatchDataset",
    "Preprocessing",
    "SegmentationDataModule",
    "ShoulderDataModule",
    "Split",
    "WholeSampler",
    "check_leakage",
    "read_cases",
    "shoulder_subject",
    "split_cases",
    "write_shoulder_phantom",
]
