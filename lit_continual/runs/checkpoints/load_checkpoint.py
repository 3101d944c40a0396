"""Reading a file of torch: tensors and plain containers, and no code."""

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_continual.files.whole_files import explaining, in_one_line
from lit_continual.runs.checkpoints.formats import readable_formats

SAFE_TORCH = (2, 10)  # before it, reading a checkpoint of tensors could run code: CVE-2025-32434, CVE-2026-24747
MOST, BEYOND = 2_000_000, 2_000_000_000  # values of a checkpoint, and bytes of its tensors that are not in the file
#: What other files of torch are, by the end of a name in them.
PROGRAMS = {"/constants.pkl": "TorchScript", "/archive_format": "an exported program"}


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint of tensors and plain containers to the CPU, without running any code from it.

    Raises:
        ValueError: If the file is missing, truncated or not such a checkpoint, or torch is too old to read it safely.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise ValueError(
            f"torch {torch.__version__} may run code that a checkpoint holds, so {path} is not read. Install torch"
            f" {'.'.join(map(str, SAFE_TORCH))} or newer."
        )
    if Path(path).is_dir():
        known = ", ".join(one.name for one in readable_formats())
        inside = [found for place in ("", "*/", "experiences/*/") for found in Path(path).glob(f"{place}model.ckpt")]
        if inside:
            raise ValueError(f"{path} is a folder. Give a checkpoint in it, such as {max(inside)}.")
        raise ValueError(
            f"{path} is a folder, and none of a trained model ({known}). Give a checkpoint, or such a folder."
        )
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint at {path}. Check the path.")
    what = f"{path} cannot be read as a checkpoint of tensors and plain values"
    remedy = "It may be truncated or of another program; use another checkpoint."
    with explaining(what, remedy, Exception):
        _require_stored(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Validating sparse tensor")  # torch 2.15; they are refused below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if foreign := _foreign_globals(path):
            raise ValueError(
                f"{what}: it holds {', '.join(foreign)}, and reading such objects, pickled hyper-parameters for one,"
                " could run code. If you trust who wrote it, allow them by `torch.serialization.add_safe_globals`"
                " first, or save its `state_dict` alone and use another file for that."
            ) from error
        raise ValueError(f"{what} ({in_one_line(error).partition('. ')[0]}). {remedy}") from error
    with explaining(what, remedy, ValueError):
        _require_bounded(checkpoint)
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint. Use another file.")
    return checkpoint


def _foreign_globals(path: str | os.PathLike[str]) -> list[str]:
    """Names of the classes and functions in a file that are not read; none if it is no whole file of torch."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of damaged files, of any kind
        return []


def _require_stored(path: str | os.PathLike[str]) -> None:
    """Refuse an archive that is another file of torch, or unpacks to more than it is: ``torch.save`` packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        for end, what in PROGRAMS.items():
            if any(part.filename.endswith(end) for part in parts):
                raise ValueError(f"it is {what}, and what that was made of is needed")
        if sum(part.file_size for part in parts) > Path(path).stat().st_size:
            raise ValueError("it unpacks to more than it is")


def _require_bounded(content: Any) -> None:
    """Refuse values that stand for one another without end, and tensors that unfold to far more than the file holds."""
    waiting, values, beyond = [content], 0, 0
    while waiting:
        one, values = waiting.pop(), values + 1
        if isinstance(one, Tensor) and one.layout is torch.strided and not one.is_meta:
            beyond += max(0, one.numel() * one.element_size() - one.untyped_storage().nbytes())
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set)):
            waiting += one
        if values + len(waiting) > MOST or beyond > BEYOND:
            raise ValueError(f"it unfolds to more than {MOST:,} values, or {BEYOND / 1e9:.0f} GB more than it is")
