"""What makes a fit that was cut off end as if it had not been."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from lit_continual.files.whole_files import replaced
from lit_continual.runs.checkpoints import checkpoint
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint
from lit_continual.runs.run_folder import RunFolder


class EpochSeed(Callback):
    """Seed torch, numpy and random from run, experience, epoch and rank, so that a resumed epoch equals the first try.

    It seeds at the first batch: Lightning draws from the generator when it makes the iterator of an epoch, before or
    after the epoch's start hook, depending on whether the fit was resumed.

    Args:
        seed: Seed of the run.
        experience: Index of the experience.
        begun: What is called before the first step.
    """

    def __init__(self, seed: int, experience: int, begun: Callable[[], None] = lambda: None) -> None:
        self.seed, self.experience, self.begun = seed, experience, begun
        self.has_begun = False  # whether anything was trained

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._seed(0, 0)  # For the weights of new heads; not before fit, where DDP takes the seed of the run again.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.has_begun:
            self.has_begun = True
            self.begun()
        if batch_idx == 0:
            self._seed(trainer.current_epoch + 1, trainer.global_rank)

    def _seed(self, epoch: int, rank: int) -> None:
        seed = int(np.random.SeedSequence([self.seed, self.experience, epoch, rank]).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)


@contextlib.contextmanager
def withdrawn_if_refused(folder: RunFolder, seeds: EpochSeed) -> Iterator[None]:
    """Leave no new run behind whose first fit is refused before its first step, as of volumes that are unfit.

    Args:
        folder: Of the run.
        seeds: What sees the steps of the fit in the block.
    """
    try:
        yield
    except (ValueError, MisconfigurationException):
        if not seeds.has_begun:
            folder.withdraw()
        raise


class ResumePoint(Checkpoint):
    """Write a checkpoint after each epoch but the last.

    From a checkpoint of the last epoch Lightning would train no batch and skip the hooks of training, in which a method
    may consolidate; so a fit that was cut off at its very end does its last epoch again.

    Args:
        dirpath: Folder of the checkpoint.
        each_epoch: Whether to write any.
    """

    def __init__(self, dirpath: Path, each_epoch: bool = True) -> None:
        self.dirpath, self.path, self.each_epoch = dirpath, dirpath / "resume.ckpt", each_epoch

    def found(self) -> Path | None:
        """The checkpoint to go on from, if there is one.

        Raises:
            ValueError: If it cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            checkpoint.Checkpoint(self.path)
        except ValueError as error:
            raise ValueError(f"{error} Remove it to train this experience from its start.") from error
        return self.path

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        bad = (name for name, value in pl_module.state_dict().items() if not checkpoint.is_finite(value))
        if name := next(bad, None):
            raise ValueError(
                f"The training has diverged: in epoch {trainer.current_epoch + 1}, `{name}` became nan or infinite."
                " Take a smaller learning rate, another precision or `gradient_clip_val`, and --overwrite."
            )
        epochs, steps = trainer.max_epochs, trainer.max_steps
        ends = epochs not in (None, -1) and trainer.current_epoch + 1 >= epochs
        if self.each_epoch and not (ends or trainer.should_stop or 0 <= steps <= trainer.global_step):
            trainer.save_checkpoint(self.path)


class ResumeFiles(CheckpointIO):
    """Lightning's checkpoints in one folder: files of torch that are there whole or not at all.

    All other files, such as those of a ``ModelCheckpoint``, are left to the ``CheckpointIO`` that the trainer had: it
    may write them later, somewhere remote, or in a format of its own.

    Args:
        folder: The folder.
        others: Writes and reads the other files.
    """

    def __init__(self, folder: Path, others: CheckpointIO) -> None:
        self.folder, self.others = folder, others

    def _is_mine(self, path: Any) -> bool:
        return Path(path).parent == self.folder

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if not self._is_mine(path):
            self.others.save_checkpoint(checkpoint, path, storage_options=storage_options)
            return
        # Lightning's own (`_atomic_save`, an fsspec transaction) writes to the system's temporary folder and moves the
        # file here, without fsync: from another file system that is a copy, of which a kill leaves a part.
        with replaced(path) as temporary:
            torch.save(checkpoint, temporary)

    @override
    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        if self._is_mine(path):
            return load_checkpoint(path)
        return self.others.load_checkpoint(path, *args, **options)

    @override
    def remove_checkpoint(self, path: Any) -> None:
        self.others.remove_checkpoint(path)

    @override
    def teardown(self) -> None:
        self.others.teardown()
