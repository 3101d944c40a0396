"""The embedded default: a shoulder phantom for streams that run anywhere."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from lit_continual.data.cache.volume_cache import cache_folder
from lit_continual.data.case_lists.cases import CaseList, read_cases
from lit_continual.data.segmentation_data_module import SegmentationDataModule
from lit_continual.phantoms.shoulder.phantom import write_shoulder_phantom


class ShoulderDataModule(SegmentationDataModule):
    """Humerus and scapula in MR volumes of a seeded phantom, made on first use and kept in the cache folder.

    Args:
        contrast: Of the Dixon sequence: ``"fat"`` or ``"water"``. A subject has the same anatomy in both.
        subjects: How many there are.
        phantom_seed: Seed of the subjects; not that of the training.
        patch_size: In voxels; a slice has 96 x 96 of 1.8 mm and a volume 24 of 6 mm.
        **kwargs: Further arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self,
        contrast: Literal["fat", "water"] = "fat",
        subjects: int = 14,
        phantom_seed: int = 0,
        patch_size: list[int] = [96, 96],  # noqa: B006  # never changed, and a config shows it
        **kwargs: Any,
    ) -> None:
        folder = cache_folder() / f"shoulder-{contrast}-{subjects}-{phantom_seed}"
        super().__init__(dataset=str(folder), patch_size=patch_size, **kwargs)
        self.contrast, self.subjects, self.phantom_seed = contrast, subjects, phantom_seed

    @cached_property
    @override
    def listed(self) -> CaseList:
        """The phantom's list of cases."""
        return read_cases(write_shoulder_phantom(Path(self.dataset), self.contrast, self.subjects, self.phantom_seed))
