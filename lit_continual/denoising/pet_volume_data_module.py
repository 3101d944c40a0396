"""Noise realisations of real PET volumes, for denoisers."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from typing_extensions import override

from lit_continual.data.cases import Case, CaseList, read_cases
from lit_continual.data.splits import Split, split_cases
from lit_continual.denoising.pet_study import Study, kept, simulate_study
from lit_continual.denoising.pet_study_data_module import PetStudyDataModule
from lit_continual.denoising.pet_volume import digest, pet_volume


class PetVolumeDataModule(PetStudyDataModule):
    """Real volumes in SUV, taken for the truth, scanned and reconstructed at chosen count levels.

    Args:
        dataset: A Decathlon ``dataset.json``, a CSV table or a folder; see ``read_cases``. Labels become regions, and
            ``gtv`` is called ``lesion``.
        split: Which patients train, validate and test.
        **options: Those of :class:`~lit_continual.data.PetStudyDataModule`.

    Raises:
        ValueError: As ``read_cases``, ``split_cases`` and ``pet_volume``.
    """

    def __init__(self, dataset: str, split: Split = Split(), **options: Any) -> None:
        super().__init__(**options)
        self.dataset, self.split = dataset, split

    @cached_property
    def listed(self) -> CaseList:
        """The data set's list of cases."""
        return read_cases(self.dataset)

    @cached_property
    @override
    def patients(self) -> dict[str, list[Case]]:  # type: ignore[override]  # mypy takes it for read-only
        return split_cases(self.listed.cases, self.split, self.listed.source)

    @cached_property
    @override
    def regions(self) -> tuple[str, ...]:  # type: ignore[override]  # the same
        names = [name for name, value in self.listed.labels.items() if value]
        return tuple("lesion" if name == "gtv" else name for name in names)

    @override
    def study(self, case: Case, seconds: Sequence[int], realisations: int) -> Study:
        phantom = pet_volume(case, self.listed, self.size, self.depth)
        name, options = digest(phantom), (self.version, seconds, realisations, self.each)
        return kept(self.cache, name, options, lambda: simulate_study(phantom, [int(name, 16)], *options))
