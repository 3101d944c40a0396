"""DataModules and datasets: Decathlon lists, folders, tables, phantoms, the exemplar memory."""

from lit_continual.data.cases import Case, CaseList, read_cases
from lit_continual.data.joint_data_module import JointDataModule
from lit_continual.data.patches import EpochSampler, PatchDataset, WholeSampler
from lit_continual.data.pet_data_module import PetDataModule, PetSlices
from lit_continual.data.pet_phantom import PetPhantom, pet_phantom
from lit_continual.data.pet_scanner import PetScanner, Reconstruction, split_counts
from lit_continual.data.pet_study import pet_study
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
    "PetDataModule",
    "PetPhantom",
    "PetScanner",
    "PetSlices",
    "Preprocessing",
    "Reconstruction",
    "SegmentationDataModule",
    "Split",
    "WholeSampler",
    "check_leakage",
    "pet_phantom",
    "pet_study",
    "read_cases",
    "split_cases",
    "split_counts",
]
