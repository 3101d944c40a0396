"""What the cache folder holds, in the terminal."""

from pathlib import Path

from rich.table import Table

from lit_continual.data.cache.cached_volumes import CachedVolume, cached_volumes
from lit_continual.data.cache.volume_cache import volumes_folder
from lit_continual.files.printing import show


def show_cache() -> None:
    """Print how large the cached volumes are, a row for each folder of images."""
    folders: dict[Path, list[CachedVolume]] = {}
    for volume in cached_volumes():
        folders.setdefault(volume.images[0].parent if volume.images else Path("damaged"), []).append(volume)
    total = [volume for volumes in folders.values() for volume in volumes]
    show(f"{volumes_folder()}: {len(total)} volumes, {_gigabytes(total)} GB.")
    table = Table("images of", "patients", "volumes", "GB", "in use", "used last")
    for folder, volumes in folders.items():
        patients, in_use = len({volume.patient for volume in volumes}), sum(volume.in_use for volume in volumes)
        last = max(volume.last_used for volume in volumes).strftime("%Y-%m-%d %H:%M")
        table.add_row(str(folder), str(patients), str(len(volumes)), _gigabytes(volumes), str(in_use), last)
    if table.rows:
        show(table, soft_wrap=False)


def _gigabytes(volumes: list[CachedVolume]) -> str:
    return f"{sum(volume.bytes for volume in volumes) / 1e9:.3f}"
