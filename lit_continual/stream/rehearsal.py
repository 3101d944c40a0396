"""What can be known of a stream before its folder is made and anything is trained."""

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    Timer,
)

from lit_continual.files.whole_files import in_one_line
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint
from lit_continual.segmentation.growth import grow_for
from lit_continual.stream.stream import Stream

FEWEST = 8  # processes that any machine can start


def rehearse(
    stream: Stream,
    models: Sequence[LightningModule],
    data: Sequence[LightningDataModule],
    trainer: Trainer,
    logged: bool = True,
) -> None:
    """Let each module check that its fit can begin, and its data that all of them can, if they know how to.

    Args:
        stream: What is learnt.
        models: The module of each experience.
        data: The data module of each experience.
        trainer: One like those that will train.
        logged: Whether those have a logger.

    Raises:
        ValueError: If a fit cannot begin, with the experience.
        MisconfigurationException: If a callback cannot train a module.
    """
    epochs = _length(trainer)
    if type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher":
        raise MisconfigurationException(
            "A stream hands its network on from fit to fit, and spawned or forked processes end with each. Use"
            " `strategy: ddp`."
        )
    if trainer.limit_test_batches == 0:
        raise ValueError("A stream is evaluated after each experience, and `limit_test_batches` is 0. Give 1 or more.")
    for callback in _callbacks(trainer):
        if not logged and isinstance(callback, (LearningRateMonitor, DeviceStatsMonitor)):
            raise MisconfigurationException(
                f"`{type(callback).__name__}` writes to a logger, and `trainer.logger` is false. Leave one of them out."
            )
    _require_directions(stream, trainer)
    grown: dict[int, LightningModule] = {}  # as the fits before leave each module
    if stream.start is not None:
        _follow(trainer, models[0])
    for experience, module, part in zip(stream.experiences, models, data, strict=True):
        own = experience.max_epochs if stream.mode != "joint" else None
        with _named(experience.name):
            _rehearse_module(module, part, epochs if own is None else own)
            if stream.mode == "single" or id(module) not in grown:
                grown[id(module)] = copy.deepcopy(module)
            for known in data if stream.mode == "joint" else [part]:
                _grow(grown[id(module)], known)
            _rehearse_callbacks(trainer, grown[id(module)], part)
        if stream.mode == "continual":
            _follow(trainer, grown[id(module)])
    for experience, part in zip(stream.experiences, data, strict=True):  # last, as it takes longest
        with _named(experience.name):
            if hasattr(part, "rehearse"):
                part.rehearse()


@contextlib.contextmanager
def _named(experience: str) -> Iterator[None]:
    """Say of an error in the block which experience it is of."""
    try:
        yield
    except (ValueError, MisconfigurationException) as error:
        kind = MisconfigurationException if isinstance(error, MisconfigurationException) else ValueError
        raise kind(f"Experience {experience}: {error}") from error


def rehearse_fit(module: LightningModule, data: Any, trainer: Trainer, epochs: int | None) -> None:
    """Let callbacks and a module check that a fit can begin, those that know how to."""
    _rehearse_module(module, data, epochs)
    if _grows(module, data):
        module = copy.deepcopy(module)  # others may be none that can be copied
        _grow(module, data)
    _rehearse_callbacks(trainer, module, data)


def _rehearse_module(module: LightningModule, data: Any, epochs: int | None) -> None:
    if hasattr(module, "rehearse"):
        module.rehearse(data, epochs)  # type: ignore[operator]


def _rehearse_callbacks(trainer: Trainer, module: LightningModule, data: Any) -> None:
    """Let callbacks check that they can train a module, which has grown for the fit."""
    for callback in _callbacks(trainer):
        if isinstance(callback, LearningRateFinder) and not hasattr(module, "lr"):
            raise MisconfigurationException(
                f"`LearningRateFinder` sets the attribute `lr` of a module, and {type(module).__name__} has its rate in"
                " `optimizer`. Drop it; `lit-continual sweep` tries several rates."
            )
        if isinstance(callback, BackboneFinetuning) and not hasattr(module, "backbone"):
            raise MisconfigurationException(
                f"`BackboneFinetuning` freezes the attribute `backbone` of a module, and {type(module).__name__} has"
                " none. Take `TrainOnly`, whose `parts` are trained and all else is not."
            )
        if hasattr(callback, "rehearse"):
            callback.rehearse(trainer, module, data)


def _grows(module: LightningModule, data: Any) -> bool:
    return hasattr(module, "grow") and hasattr(module, "classes") and hasattr(data, "classes")


def _grow(module: LightningModule, data: Any) -> None:
    """Let a module grow for the classes of data, where both have some, with no draw from the seed of the run."""
    if _grows(module, data):
        with torch.random.fork_rng(devices=[]):
            grow_for(module, data)


def _follow(trainer: Trainer, module: LightningModule) -> None:
    """Let callbacks take a module as what a fit has left."""
    for callback in _callbacks(trainer):
        if hasattr(callback, "follow"):
            callback.follow(module)


def _require_directions(stream: Stream, trainer: Trainer) -> None:
    """Refuse callbacks that would keep or wait for the worst of a score: the best of a Dice is no ``min``."""
    for callback in _callbacks(trainer):
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        stage, _, rest = str(monitor).partition("/")
        score = (stream.scores or {}).get(rest.partition("/")[0]) if stage in ("val", "test") else None
        best = "max" if score is not None and score.higher_is_better else "min"
        if score is not None and mode in ("min", "max") and mode != best:
            raise MisconfigurationException(
                f"`{type(callback).__name__}` looks for the {mode} of `{monitor}`, and of {score.name} the {best} is"
                f" the best. Give it `mode: {best}`."
            )


@contextlib.contextmanager
def explained(place: str) -> Iterator[None]:
    """Say in one sentence what Lightning says of arguments that a config hands to it.

    Raises:
        ValueError: In place of an error in the block, with ``place``.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError, ImportError, LookupError) as error:
        raise ValueError(f"{place}: {in_one_line(error).rstrip('!')}.") from error
    except MisconfigurationException as error:
        raise MisconfigurationException(f"{place}: {in_one_line(error).rstrip('!')}.") from error


def require_devices(devices: Any) -> None:
    """Check that no more processes are asked for than a machine has cores or GPUs, before Lightning starts them.

    Raises:
        ValueError: If there are.
    """
    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    count = int(devices) if isinstance(devices, int) or str(devices).isdecimal() else 0
    if count > max(cores, gpus, FEWEST):
        raise ValueError(f"`devices` is {count}, and this machine has {cores} cores and {gpus} GPUs. Give fewer.")


def _length(trainer: Trainer) -> int | None:
    """Return the epochs of a fit of ``trainer``; ``None`` where its steps or its time end it.

    Raises:
        ValueError: If nothing ends it.
    """
    limited = trainer.max_steps != -1 or trainer.max_epochs not in (None, -1)
    if not limited and not any(isinstance(c, (EarlyStopping, Timer)) for c in _callbacks(trainer)):
        raise ValueError("A fit of `max_epochs: -1` has no end. Give a number of epochs, or `max_steps` or `max_time`.")
    if trainer.check_val_every_n_epoch == 0:
        raise ValueError("`check_val_every_n_epoch` must be 1 or more, or `null`, got 0.")
    return trainer.max_epochs if trainer.max_steps == -1 and trainer.max_epochs != -1 else None


def _callbacks(trainer: Trainer) -> list[Any]:
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]


def with_added(scores: Iterable[str], trainer: Trainer) -> list[str]:
    """The scores that a module logs, and those that callbacks log beside them, by their ``added_scores``."""
    known = list(scores)
    callbacks = [callback for callback in _callbacks(trainer) if hasattr(callback, "added_scores")]
    return [*known, *(name for callback in callbacks for name in callback.added_scores(known))]


def require_scored(command: str, trainer: Any) -> None:
    """Check that ``validate`` or ``test`` has something to score.

    Args:
        command: Which.
        trainer: The trainer, or its section of a config.

    Raises:
        ValueError: If no batch is to be scored.
    """
    limit = {"validate": "limit_val_batches", "test": "limit_test_batches"}[command]
    if getattr(trainer, limit) == 0:
        raise ValueError(f"`{command}` has nothing to score, as `{limit}` is 0. Give 1 or more, or leave it out.")


def rehearse_ordinary(
    command: str, trainer: Trainer, module: LightningModule, data: Any, options: Mapping[str, Any]
) -> None:
    """Check that an ordinary ``fit``, ``validate`` or ``test`` can begin.

    Raises:
        ValueError: If it cannot, or the checkpoint among the trainer's ``options`` is damaged or none of Lightning's.
    """
    if command == "fit":
        rehearse_fit(module, data, trainer, trainer.max_epochs if trainer.max_steps == -1 else None)
    else:
        require_scored(command, trainer)
    path = options.get("ckpt_path")
    if path is None and command != "fit" and getattr(module, "classes", None) == []:
        raise ValueError(f"`{command}` needs --ckpt_path: without a checkpoint {type(module).__name__} has no class.")
    if path is None or str(path) in ("best", "last", "hpc") or "://" in str(path) or str(path).startswith("registry"):
        return
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint at {path}. Check the path.")
    if options.get("weights_only") is False:
        return  # objects in it are to be read too, which Lightning does
    content = load_checkpoint(path)
    if not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise ValueError(
            f"{path} holds weights alone, and --ckpt_path goes on with a training. Use a checkpoint that Lightning"
            " wrote, or the callback `Pretrained` for weights."
        )
