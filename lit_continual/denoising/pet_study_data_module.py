"""What the data modules of simulated PET studies share."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from typing_extensions import override

from lit_continual.data.arguments import MOST_WORKERS, require_at_least
from lit_continual.data.case_lists.cases import Case
from lit_continual.data.loading import Loading
from lit_continual.data.samplers import EpochSampler, place_in_fit, whole_loader
from lit_continual.denoising.pet_slices import PetSlices, WholeStudies
from lit_continual.denoising.pet_study import REALISATION_TIME, SCAN_TIMES, Study


class PetStudyDataModule(LightningDataModule):
    """One experience of a denoiser: studies reconstructed with one resolution model.

    Training and validation batches hold slices with their neighbours, ``image`` ``(B, 3, H, W)``, and ``target`` or
    ``twin``. Test batches hold one patient each: ``realisations`` ``(1, R, D, H, W)``, ``target`` ``(1, D, H, W)``, the
    masks ``regions`` by name, ``patient``, and the ``group`` whose scores are also shown alone.

    Args:
        version: The reconstruction, ``"v1"`` or ``"v2"``.
        pairs: What is learnt from. ``"target"``: scans of ``seconds`` and the full one of 600 s. ``"twin"``: two noise
            realisations of each study and nothing else, as online learning on a study to be denoised has it.
        seconds: Scan times of the noisy images; several make noise-adaptive training.
        realisations: Noise realisations of a test patient.
        each: Seconds of a realisation.
        size: Pixels a side.
        depth: Slices a patient.
        train_slices: First and last slice to train on, as in a Python slice; ``None`` for all.
        batch_size: Slices a batch.
        samples_per_epoch: How many of the shuffled slices make an epoch; ``None`` for all.
        cache: Folder where simulated studies are kept.
        seed: Seed of the order of slices; by default that of the run.
        num_workers: Processes that make samples; 0 for none.
        loading: See :class:`~lit_continual.data.SegmentationDataModule`.
    """

    #: What is measured: the masks of a study.
    regions: tuple[str, ...]
    #: Groups of patients whose scores are also shown alone.
    groups: tuple[str, ...] = ()
    #: Who is in each split.
    patients: dict[str, list[Case]]
    #: The split of those whose whole studies are scored.
    tested = "test"

    def __init__(
        self,
        version: str = "v2",
        pairs: Literal["target", "twin"] = "target",
        seconds: Sequence[int] = SCAN_TIMES,
        realisations: int = 10,
        each: int = REALISATION_TIME,
        size: int = 96,
        depth: int = 24,
        train_slices: tuple[int, int] | None = None,
        batch_size: int = 8,
        samples_per_epoch: int | None = None,
        cache: str | Path = "runs/pet_studies",
        seed: int | None = None,
        num_workers: int = 0,
        loading: Loading | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, batch_size=batch_size, samples_per_epoch=samples_per_epoch, size=size, depth=depth)
        require_at_least(0, seed=seed)
        require_at_least(0, MOST_WORKERS, num_workers=num_workers)
        self.version, self.pairs, self.seconds, self.realisations = version, pairs, list(seconds), realisations
        self.each, self.size, self.depth, self.train_slices = each, size, depth, train_slices
        self.batch_size, self.samples_per_epoch, self.cache = batch_size, samples_per_epoch, cache
        self.num_workers, self.loading = num_workers, loading or Loading()
        self.seed = int(os.environ.get("PL_GLOBAL_SEED") or 0) if seed is None else seed

    @abstractmethod
    def study(self, case: Case, seconds: Sequence[int], realisations: int) -> Study:
        """The study of a patient, from the cache if it is there."""

    def group(self, case: Case) -> str:
        """The group of a patient."""
        return ""

    @property
    def cases(self) -> dict[str, list[Case]]:
        """Whose truth is seen in each split; learning from twins sees nobody's."""
        return self.patients if self.pairs == "target" else {**self.patients, "train": []}

    @override
    def prepare_data(self) -> None:
        for split in ("train", "val"):
            self._pairs(split)

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train_dataset = PetSlices(self._pairs("train"), self.pairs, self.train_slices)

    @override
    def teardown(self, stage: str) -> None:
        """Let go of studies, and of the trainer whose loaders hold them; a stream keeps its data modules."""
        self.__dict__.pop("train_dataset", None)
        self.trainer = None

    def _pairs(self, split: str) -> list[Any]:
        twins = self.pairs == "twin" and split == "train"
        options: tuple[list[int], int] = ([], 2) if twins else (self.seconds, 0)
        bar = tqdm(self.patients[split], desc=f"PET studies, {split}", leave=False, disable=None)
        studies = [self.study(case, *options) for case in bar]
        if twins:
            return [tuple(study["realisations"]) for study in studies]
        return [(noisy, study["full"]) for study in studies for noisy in study["seconds"]]

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        sampler = EpochSampler(self.train_dataset, self.seed, self.samples_per_epoch, *place_in_fit(self.trainer))
        options = self.loading.options(self.num_workers, self.trainer)
        return DataLoader(self.train_dataset, self.batch_size, sampler=sampler, **options)

    @override
    def val_dataloader(self) -> Any:
        return whole_loader(PetSlices(self._pairs("val")), self.trainer, self.batch_size)

    @override
    def test_dataloader(self) -> Any:
        bar = tqdm(self.patients[self.tested], desc="PET studies, test", leave=False, disable=None)
        studies = WholeStudies([(c.patient, self.group(c), self.study(c, [], self.realisations)) for c in bar])
        return whole_loader(studies, self.trainer)
