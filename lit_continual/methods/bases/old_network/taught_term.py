"""Base class of the terms that hold a network to what it was: the old network is asked beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.loss_term import LossTerm
from lit_continual.methods.bases.old_network import answers
from lit_continual.methods.bases.old_network.answers import Ask
from lit_continual.methods.bases.old_network.logits import LOGITS, Place, named_logits
from lit_continual.methods.bases.old_network.same_in_evaluation import require_same_in_evaluation
from lit_continual.methods.bases.old_network.teacher import Teacher


class TaughtTerm(LossTerm):
    """A term of what the network in training and the old network, its teacher, answer to the same images.

    The teacher is frozen and in evaluation mode, and it is no part of the module. A subclass writes ``compute``, which
    asks :meth:`question` and :meth:`ask` while there is a teacher.

    Args:
        teacher: The old network: ``None`` for what the last fit left (the first fit then has no term), ``"start"`` for
            the weights at the start of this fit, the path of a Lightning checkpoint of the module's class, or in
            Python the old module itself, which is copied. What a stream starts from is what a last fit has left.
        logits: How to get ``(B, C, *spatial)`` logits: called with the student or the teacher, and the batch. ``None``
            takes what the module's own ``forward`` returned in ``training_step``, and asks the teacher with the
            arguments of that call.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: When a fit starts, if the teacher cannot be read.
        MisconfigurationException: If the module had no classes where the teacher is to begin; in the first step, if
            the two networks cannot be asked alike, or the teacher answers otherwise in evaluation mode.
    """

    def __init__(
        self,
        teacher: str | Path | nn.Module | None = None,
        logits: Callable[..., Any] | None = None,
        name: str = "taught",
    ) -> None:
        self.teacher, self.logits, self.name = teacher, logits, name
        self._fitted = False  # whether a fit has ended, so that there is an old network
        self._channels: int | None = None  # of its outputs; None for all
        self._resumed = ""  # file of the teacher of a checkpoint that was written during fit
        self._seen: int | None = None  # channels of the network in training
        #: Whether the caller knows that another fit follows one without a teacher, as a stream does.
        self.fits_follow = False
        self._on_images = self._warned = self._compared = False
        self._teacher: Teacher | None = None

    @property
    @override
    def remembers(self) -> bool:
        return self.teacher is None  # a teacher that is given is given again

    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        """Check, before a fit, that a module can be taught."""
        if self.logits is None:
            answers.require_one_batch(pl_module, self)

    def follow(self, pl_module: LightningModule) -> None:
        """Take the module as what a fit has left that this callback did not see."""
        self._channels = answers.channels_of(pl_module, None)
        self._fitted = self._channels != 0  # of no class there is nothing to keep

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.rehearse(trainer, pl_module, getattr(trainer, "datamodule", None))
        # The module's own setup, where heads grow, comes after this one.
        if stage == "fit" and self.teacher == "start":
            self._channels = answers.channels_of(pl_module, None)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._teacher, resumed, self._resumed = None, self._resumed, ""
        if resumed:
            self._teacher = Teacher.restore(resumed, trainer, pl_module, self._channels)
        elif isinstance(self.teacher, nn.Module):
            self._teacher = Teacher.of(self.teacher, trainer, pl_module)
        elif self.teacher not in (None, "start"):
            self._teacher = Teacher.from_checkpoint(str(self.teacher), trainer, pl_module)
        elif self.teacher == "start" or self._fitted:
            self._require_classes(pl_module)
            self._teacher = Teacher(pl_module, trainer, self._channels)
        elif not self.fits_follow:
            rank_zero_warn(
                f"`{type(self).__name__}` has no old network in this fit, which trains plainly: the first fit of a"
                " callback makes the teacher of its next. If it is the only one, set `teacher='start'`, the old module"
                " or the path of its checkpoint."
            )
        self._compared = self._warned = False

    def _require_classes(self, pl_module: LightningModule) -> None:
        if self._channels == 0:
            raise MisconfigurationException(
                f"`{type(pl_module).__name__}` knows no class at the start of this fit, so it cannot be the teacher of"
                f" `{type(self).__name__}`. Load a checkpoint into it first, or leave `teacher` out in a first fit."
            )

    def question(self, pl_module: LightningModule, batch: Any, outputs: Any) -> tuple[Tensor, Ask]:
        """Return the student's logits, in the graph, and how to ask the teacher what the student was asked."""
        named, logits, call = named_logits(outputs), self.logits, self.captured
        if logits is not None:
            return logits(pl_module, batch), lambda network: logits(network, batch)
        if call is not None:
            if call.changed:
                raise MisconfigurationException(
                    f"The `forward` of {type(pl_module).__name__} changes its input in place, so that the old network"
                    " cannot be asked about it any more. Let it make a new tensor, as by `x = x - mean` in place of"
                    " `x -= mean`."
                )
            place = Place.of(call.output, named)
            return place(call.output), lambda network: place(network(*call.args, **call.kwargs))
        self._on_images, ask = True, answers.of_images(batch)
        if named is not None and named.requires_grad:
            return named, ask
        if named is not None:
            raise MisconfigurationException(
                f"`training_step` returns logits without a gradient and does not call `forward`. {LOGITS}"
            )
        return answers.asked(pl_module, ask, f"the `forward` of {type(pl_module).__name__}"), ask

    @torch.no_grad()
    def ask(self, ask: Ask) -> Tensor:
        """Return the teacher's logits, of the channels that the old network had."""
        assert self._teacher is not None
        module = self._teacher.module
        logits = answers.asked(module, ask, "the old network")
        if not self._compared and self.logits is None:
            self._compared = True
            require_same_in_evaluation(module, lambda: ask(module), logits)
        return logits[:, : self._channels]

    def see_channels(self, pl_module: LightningModule, outputs: Any) -> None:
        """Note how many channels the network in training has, which its teacher of the next fit will have."""
        output = None if self.captured is None or self.logits is not None else self.captured.output
        self._seen = answers.channels_of(pl_module, outputs, output)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._on_images and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"`training_step` of {type(pl_module).__name__} does not call `forward`, so `{type(self).__name__}`"
                " asks both networks about the images as they are in the batch. If the step prepares them, give"
                " `logits=`."
            )

    @property
    def _of_the_run(self) -> Teacher | None:
        """The teacher if it is the module as it was, which a checkpoint must name."""
        return self._teacher if self.teacher in (None, "start") else None

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._of_the_run is not None:
            self._of_the_run.save(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The last also after a fit of no epochs.
        self._channels = answers.channels_of(pl_module, None) or self._seen or self._channels
        self._fitted, self._teacher = True, None

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._teacher = None  # not after an exception, when a checkpoint may be written that names it

    @override
    def state_dict(self) -> dict[str, Any]:
        file_name = self._resumed if self._of_the_run is None else self._of_the_run.file_name
        return {"fitted": self._fitted, "channels": self._channels, "teacher": file_name}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._fitted, self._channels = state_dict["fitted"], state_dict["channels"]
        self._resumed = state_dict["teacher"]
