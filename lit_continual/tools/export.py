"""A checkpoint in the format of another program."""

from collections.abc import Sequence
from pathlib import Path

from lit_continual.data import read_cases
from lit_continual.files.folder_aside import replaced_folder
from lit_continual.files.outputs import require_folder, require_new, require_replaceable
from lit_continual.files.printing import show
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.formats import formats


def export(
    checkpoint: str,
    format: str,
    output: str,
    images: str | None = None,
    trust: str | Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a checkpoint in the format of another program, whole or not at all.

    Args:
        checkpoint: A checkpoint, or a trained model of another program that this package opens.
        format: ``nnunet``, ``bundle``, ``onnx``, ``pt2`` or ``torchscript``.
        output: The folder that is written.
        images: A folder of images, a Decathlon list or a CSV table to compare the predictions of both on.
        trust: Package of your own whose classes the checkpoint may name, or a list of them.
        overwrite: Replace the folder that is there already, and all that is in it.

    Returns:
        The folder.

    Raises:
        ValueError: If there is no such format, it cannot hold the model, or the folder would fall on what is read, or
            unasked on what is there.
    """
    known = {one.name: one for one in formats()}
    if format not in known:
        raise ValueError(f"There is no format {format!r} to export to. Give one of {', '.join(known)}.")
    folder, opened = Path(output), Checkpoint(checkpoint, trust)
    require_folder(folder)
    require_replaceable(folder, [checkpoint, *(_files(images) if images else ())])
    require_new([folder], overwrite)
    with replaced_folder(folder) as temporary:
        said = known[format].write(opened, temporary, images)
        require_new([folder], overwrite)  # which may have come meanwhile
    for line in said:
        show(line)
    return folder


def _files(images: str) -> list[Path]:
    """The files that images are read from."""
    listed = read_cases(images)
    return [path for path in (listed.source, *(file for case in listed.cases for file in case.files)) if path.is_file()]
