"""Volumes that are loaded once and kept, in memory or on disk."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import monai
import torch
from tqdm.auto import tqdm
from typing_extensions import override

from lit_continual import __version__
from lit_continual.data.batch import Sample
from lit_continual.data.cases import Case
from lit_continual.runs.files import replaced


def cache_folder() -> Path:
    """Where caches lie: ``LIT_CONTINUAL_CACHE``, or ``~/.cache/lit_continual``."""
    return Path(os.environ.get("LIT_CONTINUAL_CACHE") or Path.home() / ".cache" / "lit_continual")


LAYOUT = 2  # of a volume, in the name of its file


class VolumeCache(Sequence[Sample]):
    """The volumes of some cases, each loaded when the cache is made, so that a bad file stops a run at its start.

    Args:
        cases: What is loaded.
        load: Loads one case as tensors, strings and numbers.
        keep: ``"memory"``, or ``"disk"`` for files in the cache folder, which later runs use again and nobody removes.
        key: What else the result of ``load`` depends on; distinguishes files on disk.
        name: What the progress bar says.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        load: Callable[[Case], Sample],
        keep: Literal["memory", "disk"] = "memory",
        key: str = "",
        name: str = "volumes",
    ) -> None:
        bar = tqdm(cases, desc=f"Loading {name}", leave=False, disable=None)
        if keep == "memory":
            self.volumes: list[Sample | Path] = [load(case) for case in bar]
        else:
            self.volumes = [self._on_disk(case, load, key) for case in bar]

    @staticmethod
    def _on_disk(case: Case, load: Callable[[Case], Sample], key: str) -> Path:
        digest = hashlib.sha256(repr((case, key, __version__, monai.__version__, LAYOUT)).encode())
        for file in (*case.images, *([case.label] if case.label else [])):
            stat = file.stat()
            digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
        path = cache_folder() / "volumes" / f"{digest.hexdigest()[:32]}.pt"
        if not path.exists():
            volume = load(case)
            with replaced(path) as temporary:
                torch.save(volume, temporary)
        return path

    @override
    def __getitem__(self, index: Any) -> Any:
        volume = self.volumes[index]
        if not isinstance(volume, Path):
            return volume
        return torch.load(volume, weights_only=True, mmap=True)  # reads of a volume what a sample takes

    def __len__(self) -> int:
        return len(self.volumes)
