"""Simulated PET of a whole-body phantom, for denoisers."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from lit_continual.data.case_lists.cases import Case
from lit_continual.denoising.pet_study import Study
from lit_continual.denoising.pet_study_data_module import PetStudyDataModule
from lit_continual.phantoms.pet.phantom import pet_study, require_room


class PetDataModule(PetStudyDataModule):
    """Simulated studies of patients of low and high BMI; the regions are liver, bladder and lesions.

    Args:
        low: Seeds of the patients of low BMI to train on, and ``high`` those of high BMI.
        high: See ``low``.
        val: Seeds of the patients to validate on, of either BMI.
        test: Seeds of the patients to test on, of either BMI.
        **options: Those of :class:`~lit_continual.data.PetStudyDataModule`.

    Raises:
        ValueError: If there is nobody to train on, somebody is in two splits, or there are too few pixels or slices.
    """

    regions = ("lesion", "liver", "bladder")
    groups = ("low", "high")

    def __init__(
        self,
        low: Sequence[int] = (0, 1, 2),
        high: Sequence[int] = (),
        val: Sequence[int] = (100,),
        test: Sequence[int] = (200,),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        require_room(self.size, self.depth)  # before a run has a folder
        seeds = [{*low, *high}, {*val}, {*test}]
        if self.pairs == "twin":
            seeds[0] = set()  # it learns on the study to be denoised
        if not [*low, *high] or len(set().union(*seeds)) < sum(map(len, seeds)):
            raise ValueError(
                f"There must be patients to train on, and each in one split only: got low {list(low)},"
                f" high {list(high)}, val {list(val)}, test {list(test)}."
            )
        both = [[_patient(seed, bmi) for seed in split for bmi in self.groups] for split in (val, test)]
        train = [*(_patient(seed, "low") for seed in low), *(_patient(seed, "high") for seed in high)]
        self.patients = {"train": train, "val": both[0], "test": both[1]}

    @override
    def study(self, case: Case, seconds: Sequence[int], realisations: int) -> Study:
        bmi: Any = case.keys["bmi"]
        shape = (self.size, self.depth, self.cache)
        return pet_study(int(case.keys["seed"]), bmi, self.version, seconds, realisations, *shape, self.each)

    @override
    def group(self, case: Case) -> str:
        return case.keys["bmi"]


def _patient(seed: int, bmi: str) -> Case:
    return Case((), None, f"{bmi} BMI {seed}", {"bmi": bmi, "seed": str(seed)})
