"""The brain phantom, for streams from one tumour to another that run anywhere."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from lit_continual.data.cache.volume_cache import cache_folder
from lit_continual.data.case_lists.cases import CaseList, read_cases
from lit_continual.data.segmentation_data_module import SegmentationDataModule
from lit_continual.phantoms.brain.phantom import write_brain_phantom


class BrainDataModule(SegmentationDataModule):
    """Tumours in four MR sequences of a seeded phantom, made on first use and kept in the cache folder.

    Args:
        kind: ``"glioma"`` or ``"metastasis"``.
        subjects: How many there are.
        phantom_seed: Seed of the subjects; not that of the training.
        patch_size: In voxels; a slice has 96 x 112 of 1.8 mm and a volume 20 of 6 mm.
        classes: As in the data set: BraTS's parts of a tumour.
        **kwargs: Further arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self,
        kind: Literal["glioma", "metastasis"] = "glioma",
        subjects: int = 20,
        phantom_seed: int = 0,
        patch_size: list[int] = [96, 112],  # noqa: B006  # never changed, and a config shows it
        classes: dict[str, int | str] = {"necrosis": 1, "oedema": 2, "enhancing": 3},  # noqa: B006  # the same
        **kwargs: Any,
    ) -> None:
        folder = cache_folder() / f"brain-{kind}-{subjects}-{phantom_seed}"
        super().__init__(dataset=str(folder), patch_size=patch_size, classes=classes, **kwargs)
        self.kind, self.subjects, self.phantom_seed = kind, subjects, phantom_seed

    @cached_property
    @override
    def listed(self) -> CaseList:
        """The phantom's list of cases."""
        return read_cases(write_brain_phantom(Path(self.dataset), self.kind, self.subjects, self.phantom_seed))
