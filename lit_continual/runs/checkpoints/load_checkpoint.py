"""Reading a file of torch: tensors and plain containers, and no code."""

import os
from pathlib import Path
from typing import Any

import torch

from lit_continual.files.whole_files import in_one_line
from lit_continual.runs.checkpoints.formats import readable_formats

SAFE_TORCH = (2, 10)  # before it, reading a checkpoint of tensors could run code: CVE-2025-32434, CVE-2026-24747


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
        raise ValueError(
            f"{path} is a folder, and none of a trained model ({known}). Give a checkpoint, or such a folder."
        )
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint at {path}. Check the path.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if foreign := _foreign_globals(path):
            raise ValueError(
                f"{path} cannot be read as a checkpoint of tensors and plain values: it holds {', '.join(foreign)}, and"
                " reading such objects, pickled hyper-parameters for one, could run code. If you trust who wrote it,"
                " allow them by `torch.serialization.add_safe_globals` first, or save its `state_dict` alone and use"
                " another file for that."
            ) from error
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors and plain values ({in_one_line(error)})."
            " It may be truncated or of another program; use another checkpoint."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint. Use another file.")
    return checkpoint


def _foreign_globals(path: str | os.PathLike[str]) -> list[str]:
    """Names of the classes and functions in a file that are not read; none if it is no whole file of torch."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of damaged files, of any kind
        return []
