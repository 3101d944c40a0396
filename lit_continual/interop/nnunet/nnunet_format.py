"""Folders of nnU-Net as a format that the door and ``export`` know."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.formats import ReadableFormat


class NNUNetFormat(ReadableFormat):
    """A trained-model folder of nnU-Net v2, one of its folds, or a checkpoint in a fold."""

    name = "nnunet"

    @override
    def recognises(self, path: Path) -> bool:
        fold = path.parent if path.suffix == ".pth" else path
        model = fold.parent if fold.name.startswith("fold_") else path
        return (model / "plans.json").is_file()

    @override
    def read(self, path: Path, trust: Collection[str]) -> dict[str, Any]:
        from lit_continual.interop.nnunet.model_folder import read_model_folder

        return read_model_folder(path, trust)

    @override
    def write(self, opened: Checkpoint, folder: Path, images: str | None) -> Sequence[str]:
        from lit_continual.interop.nnunet.write_model_folder import write_model_folder

        return write_model_folder(opened, folder, images)
