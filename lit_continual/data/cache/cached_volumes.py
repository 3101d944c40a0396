"""Which volumes lie in the cache folder, and how they are removed."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lit_continual.data.cache.cached_files import PASSING, CachedFiles, used_names
from lit_continual.data.cache.volume_cache import read, volumes_folder
from lit_continual.data.case_lists.cases import data_set_path, read_cases


@dataclass(frozen=True)
class CachedVolume:
    """A volume that is kept on disk.

    Args:
        path: Its file.
        images: The images that it was made of; none where the file is damaged.
        patient: Whose it is.
        bytes: Size of the file.
        last_used: When it was used last.
        in_use: Whether a process uses it now.
    """

    path: Path
    images: tuple[Path, ...]
    patient: str
    bytes: int
    last_used: datetime
    in_use: bool


def cached_volumes() -> Iterator[CachedVolume]:
    """Go through the volumes in the cache folder."""
    used = used_names(volumes_folder())
    for path in sorted(volumes_folder().glob("*.pt")):
        if path.name.startswith(PASSING):
            continue
        try:
            stat, content = path.stat(), read(path)
            images, patient = tuple(map(Path, content["images"])), str(content["volume"]["patient"])
        except FileNotFoundError:  # removed meanwhile
            continue
        except Exception:  # torch raises what it likes on a damaged file
            images, patient = (), ""
        when = datetime.fromtimestamp(stat.st_atime)
        yield CachedVolume(path, images, patient, stat.st_size, when, path.name in used)


def clear(dataset: str | None = None, patient: str | None = None) -> tuple[int, int]:
    """Remove volumes from the cache folder, all of them or those of a data set, a patient, or a patient of a data set.

    Args:
        dataset: A data set, or a folder, below which images lie or lay.
        patient: A patient.

    Returns:
        How many are gone, and how many running processes use, which stay.
    """
    files, images, root = CachedFiles(volumes_folder()), set[Path](), None
    if dataset is not None:
        root = data_set_path(dataset).resolve()
        images = _images(dataset)
    gone = stay = 0
    for volume in cached_volumes():
        of_data = root is None or any(image in images or root in image.parents for image in volume.images)
        if of_data and patient in (None, volume.patient):
            removed = files.remove(volume.path)
            gone, stay = gone + removed, stay + (not removed)
    return gone, stay


def _images(dataset: str) -> set[Path]:
    """The images of a data set, where it can still be read."""
    try:
        return {path.resolve() for case in read_cases(dataset).cases for path in case.images}
    except (ValueError, OSError):
        return set()
