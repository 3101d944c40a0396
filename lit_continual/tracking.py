"""Loggers over a whole stream: one step count, and the matrix and pictures after each experience."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger


def continue_steps(logger: Logger, offset: int) -> None:
    """Add ``offset`` to every step that ``logger`` logs from now on, in place of the offset of the fit before.

    A fresh Trainer counts from 0, and a tracked stream should go on where the last experience ended.
    """
    original = type(logger).log_metrics.__get__(logger)

    def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
        original(metrics=metrics, step=None if step is None else step + offset)

    logger.log_metrics = log_metrics  # type: ignore[method-assign]


@rank_zero_only
def log_row(loggers: Sequence[Logger], row: Mapping[str, Mapping[str, float]], step: int) -> None:
    """Log the newest row of each result matrix as ``matrix/<score>/<experience>``, and what follows from it."""
    metrics = {f"matrix/{score}/{on}": value for score, values in row.items() for on, value in values.items()}
    for logger in loggers:
        logger.log_metrics(metrics, step=step)
        logger.save()


@rank_zero_only
def log_pictures(loggers: Sequence[Logger], pictures: Mapping[str, Any], step: int) -> None:
    """Log figures of matplotlib to the loggers that show pictures."""
    for logger in loggers:
        for name, figure in pictures.items():
            if isinstance(logger, WandbLogger):
                logger.log_image(name, [_pixels(figure)])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, _pixels(figure), step, dataformats="HWC")


def _pixels(figure: Any) -> np.ndarray[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def describe(logger: Logger, config: Mapping[str, Any]) -> None:
    """Log the configuration of the run."""
    logger.log_hyperparams(dict(config))


def versions() -> dict[str, str]:
    """Versions of what computes the results."""
    from importlib.metadata import version

    packages = ["lit-continual", "torch", "lightning", "monai", "torchmetrics", "numpy"]
    return {name: version(name) if name != "torch" else str(torch.__version__) for name in packages}
