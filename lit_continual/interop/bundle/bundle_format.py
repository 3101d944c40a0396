"""MONAI bundles as a format that the door and ``export`` know."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from lit_continual.interop.bundle.bundle_files import is_bundle
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.formats import ReadableFormat


class BundleFormat(ReadableFormat):
    """A MONAI bundle: a folder with ``configs/metadata.json``, or a zip of one."""

    name = "bundle"

    @override
    def recognises(self, path: Path) -> bool:
        return is_bundle(path)

    @override
    def read(self, path: Path, trust: Collection[str]) -> dict[str, Any]:
        from lit_continual.interop.bundle.read_bundle import read_bundle

        return read_bundle(path, trust)

    @override
    def write(self, opened: Checkpoint, folder: Path, images: str | None) -> Sequence[str]:
        from lit_continual.interop.bundle.write_bundle import write_bundle

        return write_bundle(opened, folder, images)
