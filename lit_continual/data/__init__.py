"""DataModules and datasets: Decathlon lists, folders, tables, phantoms, the exemplar memory."""

from lit_continual.data.binary_morphology import BinaryMorphology, BinaryMorphologyd
from lit_continual.data.brain_data_module import BrainDataModule
from lit_continual.data.budget import Budget
from lit_continual.data.candidates import Candidates, ItemCandidates, SliceCandidates
from lit_continual.data.cases import Case, CaseList, read_cases
from lit_continual.data.decathlon_data_module import DecathlonDataModule
from lit_continual.data.episodes import Episodes, slice_dice
from lit_continual.data.exemplar import Exemplar
from lit_continual.data.exemplar_memory import ExemplarMemory
from lit_continual.data.exemplar_memory_data_module import ExemplarMemoryDataModule
from lit_continual.data.exemplars import Exemplars
from lit_continual.data.joint_data_module import JointDataModule
from lit_continual.data.multi_task_data_module import MultiTaskDataModule
from lit_continual.data.noisy_pair import NoisyPair, read_noisy_pair
from lit_continual.data.patches import EpochSampler, PatchDataset, WholeSampler
from lit_continual.data.patient_episodes import PatientEpisodes
from lit_continual.data.patient_tasks import patient_tasks
from lit_continual.data.pet_data_module import PetDataModule
from lit_continual.data.pet_phantom import PetPhantom, pet_phantom
from lit_continual.data.pet_scanner import PetScanner, Reconstruction, split_counts
from lit_continual.data.pet_slices import PetSlices, WholeStudies
from lit_continual.data.pet_study import pet_study, simulate_study
from lit_continual.data.pet_study_data_module import PetStudyDataModule
from lit_continual.data.pet_volume import pet_volume
from lit_continual.data.pet_volume_data_module import PetVolumeDataModule
from lit_continual.data.remove_outside import RemoveOutside, RemoveOutsided
from lit_continual.data.replay import ReplayDataset, ReplaySampler
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
    "Budget",
    "Candidates",
    "Case",
    "CaseList",
    "DecathlonDataModule",
    "Episodes",
    "EpochSampler",
    "Exemplar",
    "ExemplarMemory",
    "ExemplarMemoryDataModule",
    "Exemplars",
    "ItemCandidates",
    "JointDataModule",
    "MultiTaskDataModule",
    "NoisyPair",
    "PatchDataset",
    "PatientEpisodes",
    "PetDataModule",
    "PetPhantom",
    "PetScanner",
    "PetSlices",
    "PetStudyDataModule",
    "PetVolumeDataModule",
    "Preprocessing",
    "Reconstruction",
    "RemoveOutside",
    "RemoveOutsided",
    "ReplayDataset",
    "ReplaySampler",
    "SegmentationDataModule",
    "ShoulderDataModule",
    "SliceCandidates",
    "Split",
    "WholeSampler",
    "WholeStudies",
    "check_leakage",
    "patient_tasks",
    "pet_phantom",
    "pet_study",
    "pet_volume",
    "read_cases",
    "read_noisy_pair",
    "shoulder_subject",
    "simulate_study",
    "slice_dice",
    "split_cases",
    "split_counts",
    "write_shoulder_phantom",
]
