"""Public data of the Medical Segmentation Decathlon, for a user with nothing at hand."""

import os
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.apps import DecathlonDataset, download_url, extractall
from typing_extensions import override

from lit_continual.data.cache.volume_cache import cache_folder
from lit_continual.data.case_lists.cases import CaseList, read_cases
from lit_continual.data.segmentation_data_module import SegmentationDataModule
from lit_continual.files.folder_aside import made_folder
from lit_continual.files.whole_files import in_one_line, is_first_rank


class DecathlonDataModule(SegmentationDataModule):
    """A task of the Medical Segmentation Decathlon, fetched from MONAI's mirror where it is not there yet.

    Args:
        task: Its name, such as ``Task04_Hippocampus``.
        patch_size: In voxels: two numbers for slices along the last axis, three for 3D patches.
        root: Folder of the tasks; by default ``decathlon`` in the cache folder.
        download: Fetch the task if it is not in ``root``: 27 MB for the hippocampus, up to 27 GB for the liver.
        **kwargs: Further arguments of ``SegmentationDataModule``.

    Raises:
        ValueError: If there is no such task, or it is not there and cannot be fetched.

    References:
        Antonelli et al. The Medical Segmentation Decathlon. Nature Communications 13, 2022.
    """

    def __init__(
        self, task: str, patch_size: list[int], root: str | None = None, download: bool = False, **kwargs: Any
    ) -> None:
        if task not in DecathlonDataset.resource:
            raise ValueError(f"`task` must be one of {', '.join(DecathlonDataset.resource)}, got {task!r}.")
        given = os.path.expandvars(os.path.expanduser(root)) if root else cache_folder() / "decathlon"
        super().__init__(dataset=str(Path(given) / task), patch_size=patch_size, **kwargs)
        self.task, self.download = task, download

    @override
    def prepare_data(self) -> None:
        """Fetch the task on the first rank while the others wait; a killed download leaves no half of it."""
        folder, url = Path(self.dataset), DecathlonDataset.resource[self.task]
        listing = folder / "dataset.json"
        while self.download and not is_first_rank() and not listing.exists():
            time.sleep(1)
        if listing.exists():
            return
        if not self.download:
            raise ValueError(f"{self.task} is not in {folder.parent}. Set `download: true`, or unpack {url} there.")
        made_folder(folder.parent)
        with tempfile.TemporaryDirectory(prefix=f".{self.task}.", suffix=".part", dir=folder.parent) as temporary:
            try:
                archive = Path(temporary) / f"{self.task}.tar"
                download_url(url, archive, DecathlonDataset.md5[self.task], "md5")
                extractall(archive, temporary)
            except Exception as error:
                raise ValueError(
                    f"{self.task} cannot be fetched from {url} ({in_one_line(error)}). Check the network and the space"
                    f" on the disk, or fetch the file elsewhere and unpack it in {folder.parent}."
                ) from error
            os.replace(Path(temporary) / self.task, folder)

    @cached_property
    @override
    def listed(self) -> CaseList:
        """The task's list of cases."""
        self.prepare_data()
        return read_cases(self.dataset)
