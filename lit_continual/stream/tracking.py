"""What a stream gives to loggers and prints: one step count, matrix and pictures after each experience."""

import contextlib
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import lit_continual
from lit_continual.files.printing import show
from lit_continual.files.whole_files import in_one_line
from lit_continual.reports.matrices import matrix_figure
from lit_continual.reports.overlays import overlays_figure
from lit_continual.reports.summary import numbers_to_log
from lit_continual.runs.run import Run


def continue_steps(logger: Logger, offset: int) -> None:
    """Add ``offset`` to every step that ``logger`` logs from now on, in place of the offset of the fit before.

    A fresh Trainer counts from 0, and a tracked stream should go on where the last experience ended.
    """
    original = type(logger).log_metrics.__get__(logger)

    def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
        original(metrics=metrics, step=None if step is None else step + offset)

    logger.log_metrics = log_metrics  # type: ignore[method-assign]


def without_version(trainer: Trainer) -> Trainer:
    """Leave the number of the logs, ``v_num``, out of what the progress bar shows: a run is known by its folder."""
    if (bar := trainer.progress_bar_callback) is not None:
        own = bar.get_metrics

        def get_metrics(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
            return {name: value for name, value in own(trainer, pl_module).items() if name != "v_num"}

        bar.get_metrics = get_metrics  # type: ignore[method-assign]
    return trainer


@rank_zero_only
def log_row(loggers: Sequence[Logger], folder: Path, after: int, step: int, pictures: bool = False) -> None:
    """Log what was found after an experience: numbers, the matrices as pictures, and the overlays where asked for.

    Args:
        loggers: Where to.
        folder: Folder of the run.
        after: Index of the experience.
        step: Training steps so far, in the whole stream.
        pictures: Whether to log slices of test patients, who have numbers in place of names there.
    """
    if not loggers:
        return
    run = Run.load(folder)
    metrics = {name: value for name, value in numbers_to_log(run, after).items() if math.isfinite(value)}
    for logger in loggers:
        continue_steps(logger, 0)
        logger.log_metrics(metrics, step=step)
        if isinstance(logger, (WandbLogger, TensorBoardLogger)):
            _log_pictures(logger, run, step, pictures)
        logger.save()


def _log_pictures(logger: WandbLogger | TensorBoardLogger, run: Run, step: int, patients: bool) -> None:
    figures: dict[str, Figure | None] = {f"matrix/{s.name}": matrix_figure([run], s) for s in run.scores}
    figures["overlays"] = overlays_figure(run, names=False) if patients else None
    for name, figure in figures.items():
        if figure is None:
            continue
        if isinstance(logger, WandbLogger):
            logger.log_image(f"pictures/{name}", [_pixels(figure)], step=step)
        else:
            logger.experiment.add_image(f"pictures/{name}", _pixels(figure), step, dataformats="HWC")


def _pixels(figure: Figure) -> np.ndarray[Any, Any]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


#: What keys of another logger, or of data from elsewhere, are called in a config; and a password in an address.
_SECRET = re.compile(r"api_?key|token$|passw|secret|credential", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


def without_secrets(config: Any) -> Any:
    """Return a config in which keys and passwords are stars: what is logged leaves the machine.

    Example:
        >>> without_secrets({"logger": {"api_key": "abc", "uri": "https://me:abc@host/x"}, "tokens": 3})
        {'logger': {'api_key': '***', 'uri': 'https://***@host/x'}, 'tokens': 3}
    """
    if isinstance(config, Mapping):
        hidden = {k for k, v in config.items() if v is not None and _SECRET.search(str(k))}
        return {k: "***" if k in hidden else without_secrets(v) for k, v in config.items()}
    if isinstance(config, list):
        return [without_secrets(value) for value in config]
    return _IN_ADDRESS.sub("***@", config) if isinstance(config, str) else config


def begin_tracking(loggers: Sequence[Logger], config: Mapping[str, Any], run_id: str) -> None:
    """Log the configuration; a run that is resumed goes on under its id where the tracker knows ids."""
    known = os.environ.get("WANDB_RUN_ID")
    os.environ["WANDB_RUN_ID"] = known or run_id  # read when the logger starts its run
    try:
        for logger in loggers:
            logger.log_hyperparams(dict(without_secrets(config)))
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        raise ValueError(
            f"Weights & Biases cannot start a run ({in_one_line(error)}). Log in by `wandb login`, or set"
            " WANDB_MODE=offline."
        ) from error
    finally:
        if known is None:
            del os.environ["WANDB_RUN_ID"]


@rank_zero_only
def end_tracking(loggers: Sequence[Logger]) -> None:
    """Close what would else go on, and be gone on with by the next run in this process."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


@rank_zero_only
def announce(text: str) -> None:
    """Print a line."""
    show(text)


@contextlib.contextmanager
def quiet(infos: bool = False, also: str = "$^") -> Iterator[None]:
    """Keep back what Lightning says of itself at every fit and test, and no warning that a user can act on.

    Args:
        infos: Let through what it says and does not warn of, but for what it advertises.
        also: Pattern of a warning that is kept back too.
    """

    def keep(record: logging.LogRecord) -> bool:
        place = Path(record.pathname).as_posix()
        if "Tip: For seamless" in record.getMessage():
            return False
        mine = re.search(r"lightning/(pytorch/(trainer|loops|accelerators)|fabric/accelerators)/", place)
        return infos or record.levelno > logging.INFO or not mine

    handlers = [h for name in ("pytorch", "fabric") for h in logging.getLogger(f"lightning.{name}").handlers]
    for handler in handlers:
        handler.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # lightning 2.6.6 on torch 2.13
            # Whole volumes are evaluated one by one.
            warnings.filterwarnings("ignore", "The '(val|test|predict)_dataloader' does not have many workers")
            warnings.filterwarnings("ignore", "Total length of `list`")  # of a split that leaves nobody to validate on
            warnings.filterwarnings("ignore", also)
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)


def versions() -> dict[str, str]:
    """Versions of what computes the results."""
    # This package may not be installed.
    own = {"lit-continual": lit_continual.__version__, "torch": str(torch.__version__)}
    return own | {name: version(name) for name in ("lightning", "monai", "torchmetrics", "numpy")}
