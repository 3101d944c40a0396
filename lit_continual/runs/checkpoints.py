"""Modules from a checkpoint alone, where no config is at hand."""

import inspect
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from lit_continual.data import Preprocessing
from lit_continual.denoising.denoiser import Denoiser
from lit_continual.runs.storage import in_one_line, load_checkpoint
from lit_continual.segmentation.segmenter import Segmenter

MODULES: tuple[type[LightningModule], ...] = (Segmenter, Denoiser)


def load_module(checkpoint: str | Path) -> LightningModule:
    """Rebuild the Segmenter or Denoiser of a checkpoint, in eval mode.

    Raises:
        ValueError: If the file is not a checkpoint of one of the two.
    """
    content = load_checkpoint(checkpoint)
    known: dict[str, Any] = content.get("hyper_parameters", {})
    for kind in MODULES:
        if known and known.keys() <= inspect.signature(kind).parameters.keys():
            return _built(kind, content, checkpoint).eval()
    names = " or ".join(kind.__name__ for kind in MODULES)
    raise ValueError(f"{checkpoint} is no checkpoint of a {names}. Use an experiences/*/model.ckpt of a run.")


def load_denoiser(checkpoint: str | Path) -> Denoiser:
    """Rebuild the Denoiser of a checkpoint, in eval mode.

    Raises:
        ValueError: If the file is not a checkpoint of a Denoiser.
    """
    module = load_module(checkpoint)
    if not isinstance(module, Denoiser):
        raise ValueError(f"{checkpoint} is a {type(module).__name__}'s. Use a checkpoint of a Denoiser.")
    return module


def load_segmenter(checkpoint: str | Path) -> tuple[Segmenter, Preprocessing]:
    """Rebuild the network of a checkpoint, and what it does to an image first.

    Raises:
        ValueError: If the file is not a checkpoint of a ``Segmenter`` that was trained on one of our data modules.
    """
    content = load_checkpoint(checkpoint)
    try:
        module = Segmenter(**content["hyper_parameters"])
        module.load_state_dict(content["state_dict"])
        preprocessing = Preprocessing(**content["datamodule_hyper_parameters"]["preprocessing"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{checkpoint} is no checkpoint of a Segmenter with its preprocessing ({in_one_line(error)})."
            " Use an experiences/*/model.ckpt of a run."
        ) from error
    return module, preprocessing


def _built(kind: type[LightningModule], content: dict[str, Any], checkpoint: str | Path) -> LightningModule:
    try:
        module = kind(**content["hyper_parameters"])
        module.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"The weights in {checkpoint} are not those of the {kind.__name__} that it describes"
            f" ({in_one_line(error)}). Use another checkpoint."
        ) from error
    return module
