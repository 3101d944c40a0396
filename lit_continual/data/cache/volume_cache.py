"""Volumes that are loaded once and kept, in memory or on disk."""

import hashlib
import mmap
import os
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import monai
import torch
from torch import Tensor
from typing_extensions import override

from lit_continual import __version__
from lit_continual.data.batch import Sample
from lit_continual.data.cache.cached_files import PASSING, CachedFiles, Lease
from lit_continual.data.case_lists.cases import Case
from lit_continual.data.foreground import Foreground
from lit_continual.data.loading import load_in_threads


def cache_folder() -> Path:
    """Where caches lie: ``LIT_CONTINUAL_CACHE``, or ``~/.cache/lit_continual``."""
    return Path(os.environ.get("LIT_CONTINUAL_CACHE") or Path.home() / ".cache" / "lit_continual")


def volumes_folder() -> Path:
    """Where volumes lie that are kept on disk."""
    return cache_folder() / "volumes"


LAYOUT = 3  # of a file, in its name
#: Gives a tensor of a shape, to be filled.
Room = Callable[[Sequence[int]], Tensor]
IN_MEMORY: Room = partial(torch.empty, dtype=torch.half)


class VolumeCache(Sequence[Sample]):
    """The volumes of some cases, each loaded when the cache is made, so that a bad file stops a run at its start.

    On disk a volume is a file in the cache folder, which is mapped into memory: a patch reads the part of the file
    that it lies in, and processes share what was read. Later runs use it again, until it is removed where
    :class:`~lit_continual.data.cache.cached_files.CachedFiles` needs room. Processes that load the same cases at the same
    time begin with different ones, and take from each other what is there by then; none waits for another.

    Args:
        cases: What is loaded.
        load: Loads one case as tensors, strings and numbers; called in several threads.
        keep: ``"memory"``, or ``"disk"`` for files.
        key: What else the result of ``load`` depends on; distinguishes files on disk.
        name: What the progress bar says.
        patch_size: What is drawn from the volumes: two numbers for slices, three for patches; the foreground is then
            looked up. ``None`` for whole volumes.
        threads: How many load at a time.
        place: How many processes load the same cases, and which one this is.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        load: Callable[[Case], Sample],
        keep: Literal["memory", "disk"] = "memory",
        key: str = "",
        name: str = "volumes",
        patch_size: Sequence[int] | None = None,
        threads: int = 1,
        place: tuple[int, int] = (1, 0),
    ) -> None:
        self.by_slice = patch_size is not None and len(patch_size) == 2
        self.volumes: list[Sample | Path] = []
        self._closed = False
        self._leases: list[Lease] = []
        self._release = weakref.finalize(self, _release, self._leases)
        files = CachedFiles(volumes_folder())
        paths = [files.folder / f"{_digest(case, key)}.pt" for case in cases] if keep == "disk" else []
        if paths:
            self._leases.append(Lease(files.folder, [path.name for path in paths]))

        def foreground(volume: Mapping[str, Any]) -> Any:
            return None if patch_size is None else vars(Foreground.of(volume["label"], centres=not self.by_slice))

        def in_memory(k: int) -> tuple[Any, Any]:
            volume = load(cases[k])
            return volume, foreground(volume)

        def on_disk(k: int) -> tuple[Any, Any]:
            known = _foreground(paths[k]) if files.touch(paths[k]) else None
            if known is None:
                volume = load(cases[k])
                known = {"foreground": foreground(volume)}
                laid: Any = {name: self._laid(value) for name, value in volume.items()}
                files.write(paths[k], {"volume": laid, "images": [str(p.resolve()) for p in cases[k].images], **known})
            return paths[k], known["foreground"]

        ranks, rank = place
        order = sorted(range(len(cases)), key=lambda k: (k - rank) % ranks != 0)
        try:
            loaded = load_in_threads(on_disk if paths else in_memory, order, threads, name)
        except BaseException:
            self.close()
            raise
        self.volumes = [volume for volume, _ in loaded]
        #: Of each volume, where patches are drawn.
        self.foregrounds = [Foreground(**found) for _, found in loaded if found is not None]

    def _laid(self, value: Any) -> Any:
        """Lay slices one behind another, where slices are drawn, so that one is read without the others."""
        if not self.by_slice or not isinstance(value, Tensor) or value.ndim != 4:
            return value
        return value.movedim(-1, 0).contiguous().movedim(0, -1)

    @override
    def __getitem__(self, index: Any) -> Any:
        if self._closed:
            raise RuntimeError("These volumes were let go when the fit or the evaluation was over. Load the data anew.")
        volume = self.volumes[index]
        return read(volume)["volume"] if isinstance(volume, Path) else volume

    def __len__(self) -> int:
        return len(self.volumes)

    def beside(self, made: Iterable[Callable[[Room], Tensor]]) -> Sequence[Tensor]:
        """Keep further tensors in half precision, one a volume, where the volumes are kept, until :meth:`close`.

        Args:
            made: Of each volume, what asks for room for a tensor ``(K, H, W, D)`` and returns it filled.
        """
        if not self.volumes or not isinstance(self.volumes[0], Path):
            return filled(made)
        files, token = CachedFiles(volumes_folder()), uuid.uuid4().hex
        paths = [files.folder / f"{PASSING}{token}-{k}.pt" for k in range(len(self.volumes))]
        self._leases.append(Lease(files.folder, [path.name for path in paths]))
        for path, make in zip(paths, made, strict=True):
            files.make(path, partial(self._fill, make))
        return TensorFiles(paths)

    def _fill(self, make: Callable[[Room], Tensor], path: Path) -> None:
        """Write a file and fill it where it is mapped into memory, which holds what the system likes to keep of it."""

        def room(shape: Sequence[int]) -> Tensor:
            size = (shape[-1], *shape[:-1]) if self.by_slice else tuple(shape)
            zeros = torch.zeros(size, dtype=torch.half)  # which take no memory until they are written to
            content = {"tensor": zeros.movedim(0, -1) if self.by_slice else zeros}
            torch.save(content, path)  # by which a full disk is seen, and not by a signal
            with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
                found: Tensor = read(path)["tensor"]
            return found

        if hasattr(mmap, "MAP_SHARED"):
            make(room)
        else:  # on Windows, which maps no file here to be written to
            torch.save({"tensor": self._laid(make(IN_MEMORY))}, path)

    def close(self) -> None:
        """Let go of the volumes, whoever holds this; others may remove the files then."""
        self._closed = True
        self.volumes.clear()
        _release(self._leases)

    @override
    def __getstate__(self) -> dict[str, Any]:  # of a worker process, which has no say in what is kept
        return {**vars(self), "_leases": [], "_release": None}


def filled(made: Iterable[Callable[[Room], Tensor]]) -> list[Tensor]:
    """Keep in memory what :meth:`VolumeCache.beside` takes."""
    return [make(IN_MEMORY) for make in made]


class TensorFiles(Sequence[Tensor]):
    """Tensors that lie in files, mapped into memory where they are asked for.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    @override
    def __getitem__(self, index: Any) -> Any:
        return read(self.paths[index])["tensor"]

    def __len__(self) -> int:
        return len(self.paths)


def read(path: Path) -> Any:
    """Map a file of the cache into memory.

    Raises:
        FileNotFoundError: If somebody has removed it, with the remedy.
    """
    try:
        return torch.load(path, weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} was removed while it was in use. Run the command again; a fit goes on with --resume."
        ) from error


def _foreground(path: Path) -> dict[str, Any] | None:
    """What a file says of its foreground, in memory; nothing where it cannot be read and must be made anew."""
    try:
        found = read(path)["foreground"]
        return {"foreground": found and {**found, "centres": found["centres"].clone()}}
    except Exception:  # torch raises what it likes on a damaged file
        return None


def _digest(case: Case, key: str) -> str:
    digest = hashlib.sha256(repr((case, key, __version__, monai.__version__, LAYOUT)).encode())
    for file in (*case.images, *([case.label] if case.label else [])):
        stat = file.stat()
        digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _release(leases: list[Lease]) -> None:
    while leases:
        leases.pop().release()
