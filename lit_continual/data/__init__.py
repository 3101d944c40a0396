"""DataModules and datasets: Decathlon lists, folders, tables, phantoms, the exemplar memory."""

from lit_continual.data.binary_morphology import BinaryMorphology, BinaryMorphologyd
from lit_continual.data.brain_data_module import BrainDataModule
from lit_continual.data.cases import Case, CaseList, read_cases
from lit_continual.data.decathlon_data_module import DecathlonDataModule
from lit_continual.data.episodes import Episodes, slice_dice
from lit_continual.data.joint_data_module import JointDataModule
from lit_continual.data.multi_task_data_module import MultiTaskDataModule
from lit_continual.data.patches import EpochSampler, PatchDataset, WholeSampler
from lit_continual.data.patient_episodes import PatientEpisodes
from lit_continual.data.patient_tasks import patient_tasks
from lit_continual.data.pet_data_module import PetDataModule, PetSlices
from lit_continual.data.pet_phantom import PetPhantom, pet_phantom
from lit_continual.data.pet_scanner import PetScanner, Reconstruction, split_counts
from lit_continual.data.pet_study import pet_study
from lit_continual.data.remove_outside import RemoveOutside, RemoveOutsided
from lit_continual.data.segmentation_data_module import Augmentation, SegmentationDataModule
from lit_continual.data.shoulder_data_module import ShoulderDataModule
from lit_continual.data.shoulder_phantom import shoulder_subject, write_shoulder_phantom
from lit_continual.data.splits import Split, check_leakage, split_cases
from lit_continual.data.volumes import Preprocessing

__all__ = [
    "Augmentation",
    "BinaryMorphology",
    "BinaryMorphologyd",
    "BrainDataModule",
    "Case",
    "CaseList",
    "DecathlonDataModule",
    "Episodes",
    "EpochSampler",
    "JointDataModule",
    "MultiTaskDataModule",
    "PatchDataset",
    "PatientEpisodes",
    "PetDataModule",
    "PetPhantom",
    "PetScanner",
    "PetSlices",
    "Preprocessing",
    "Reconstruction",
    "RemoveOutside",
    "RemoveOutsided",
    "SegmentationDataModule",
    "ShoulderDataModule",
    "Split",
    "WholeSampler",
    "check_leakage",
    "patient_tasks",
    "pet_phantom",
    "pet_study",
    "read_cases",
    "shoulder_subject",
    "slice_dice",
    "split_cases",
    "split_counts",
    "write_shoulder_phantom",
]
