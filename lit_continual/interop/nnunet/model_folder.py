"""Reading a trained-model folder of nnU-Net, without running any code from it."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_continual.files.printing import printable_errors
from lit_continual.files.whole_files import read_json
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter
from lit_continual.interop.nnunet.trained import Trained
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint
from lit_continual.runs.checkpoints.seal import SECTION

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
SEGMENTATION_LAYER = re.compile(r"decoder\.seg_layers\.([0-9]|[1-9][0-9])\.(weight|bias)")
#: What numpy builds a number from; its module was called otherwise in numpy 1.
_SCALAR = np.float64(0).__reduce__()[0]
NUMPY: list[Any] = [
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


@printable_errors()
def read_model_folder(path: Path, trust: Collection[str] = ()) -> dict[str, Any]:
    """Read a trained model of nnU-Net as what a checkpoint of a ``NNUNetSegmenter`` holds.

    Args:
        path: The folder with ``plans.json``, one of its folds, or a checkpoint in a fold.
        trust: Packages of the caller's own whose architectures and layers the plans may name too.

    Returns:
        See :meth:`~lit_continual.runs.checkpoints.formats.ReadableFormat.read`.

    Raises:
        ValueError: If something is missing or damaged, or the model cannot be extended.
    """
    file = _checkpoint(path)
    folder = file.parent.parent
    fingerprint = folder / "dataset_fingerprint.json"
    content = load_model(file)
    axes = content.get("inference_allowed_mirroring_axes")
    given = {
        "plans": read_json(folder / "plans.json"),
        "dataset": _json(folder / "dataset.json"),
        "configuration": content["init_args"]["configuration"],
        "trainer": content["trainer_name"],
        "mirror_axes": list(axes) if isinstance(axes, tuple) else axes,
        "fold": file.parent.name.removeprefix("fold_"),
        "fingerprint": read_json(fingerprint) if fingerprint.is_file() else None,
    }
    try:
        trained = Trained.of(given, trust)
        weights = _renamed(content["network_weights"], trained)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return {
        "state_dict": weights,
        "hyper_parameters": {"trained": trained.plain(), "heads": [trained.classes], "roi_size": None},
        SECTION: {"module": NNUNetSegmenter.__name__},
    }


def load_model(file: Path) -> dict[str, Any]:
    """Load a checkpoint of nnU-Net: tensors, plain values and the numbers of numpy among them.

    Raises:
        ValueError: If it holds anything else, or not what nnU-Net predicts with.
    """
    with torch.serialization.safe_globals(NUMPY):
        content = load_checkpoint(file)
    arguments = content.get("init_args")
    known = isinstance(arguments, Mapping) and isinstance(arguments.get("configuration"), str)
    weights = content.get("network_weights")
    if not (known and isinstance(content.get("trainer_name"), str) and isinstance(weights, Mapping) and weights):
        raise ValueError(
            f"{file} is no checkpoint of nnU-Net v2: it lacks `network_weights`, `trainer_name` or `init_args` with"
            " `configuration`. Use one that nnUNetv2_train has written."
        )
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise ValueError(f"{file} holds something else than tensors by name. Use another checkpoint.")
    return content


def _checkpoint(path: Path) -> Path:
    """The checkpoint that a path means."""
    if path.suffix == ".pth":
        return path
    if path.name.startswith("fold_"):
        files = [path / name for name in CHECKPOINTS]
        if not (found := [file for file in files if file.is_file()]):
            raise ValueError(f"{path} has neither {' nor '.join(CHECKPOINTS)}. Give another fold, or train it first.")
        return found[0]
    folds = sorted(place for place in path.glob("fold_*") if any((place / name).is_file() for name in CHECKPOINTS))
    if not folds:
        raise ValueError(f"{path} has no fold with a {CHECKPOINTS[0]}. Train one first, or give another folder.")
    if len(folds) > 1:
        raise ValueError(
            f"{path} has {', '.join(fold.name for fold in folds)}, and one network is extended at a time. Give one of"
            f" them, such as {folds[0]}."
        )
    return _checkpoint(folds[0])


def _json(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"There is no {path}, which names the labels of the model. Copy it there.")
    return read_json(path)


def _renamed(weights: Mapping[str, Tensor], trained: Trained) -> dict[str, Tensor]:
    """The weights under their names in the module: those of the last layer are the first head."""
    convolutions = {name: weight for name, weight in weights.items() if weight.ndim > 3}
    layers = {int(found[1]): w for name, w in convolutions.items() if (found := SEGMENTATION_LAYER.fullmatch(name))}
    if not layers:
        raise ValueError("the network has no `decoder.seg_layers`, and only U-Nets with a decoder are extended.")
    rows, wanted = len(layers[max(layers)]), len(trained.classes) + 1
    if rows != wanted:
        raise ValueError(
            f"the network has {rows} outputs, and dataset.json {wanted} labels. Give it those of the model."
        )
    taken = next(iter(convolutions.values())).shape[1]
    if taken != trained.channels:
        raise ValueError(
            f"the network takes {taken} channels, and dataset.json names {trained.channels}. Give it those of the"
            " model."
        )
    return {_name(name, max(layers)): weight for name, weight in weights.items()}


def _name(theirs: str, last: int) -> str:
    """What the module calls a weight of the network."""
    found = SEGMENTATION_LAYER.fullmatch(theirs)
    if found is None:
        return f"body.{theirs}"
    place = "heads" if int(found[1]) == last else f"auxiliary.{found[1]}"
    return f"{place}.layers.0.{found[2]}"
