"""Patient tuning in evaluation: what a few annotated slices of each patient would gain."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lit_continual.methods.bases.fit.replaced_method import ReplacedMethod
from lit_continual.methods.bases.releasing import Releasing
from lit_continual.methods.patient_tuning.tune import Tuning, check_options
from lit_continual.segmentation.source_grid import from_source_grid
from lit_continual.segmentation.volume_scores import VolumeScores


class PatientTuning(Releasing):
    """Tune a segmenter on a few annotated slices of each volume before it is tested on the others.

    This measures what ``lit-continual adapt`` does with a partial label map: of each test or validation volume,
    ``slices`` of those with a revealed class, evenly apart along the last axis of the file, are shown to the network,
    which is tuned on them and then segments the volume. The voxels of the other slices are scored, the same ones
    whatever ``steps`` is. Then the network is as it was. Training, and the validation in it, are left alone.

    Args:
        slices: Annotated slices of each volume; all but one where it has no more with a class.
        steps: Steps on them, each by one gradient; 0 scores the network as it is on the slices that are not shown.
            Of several numbers, the volume is scored after each, and the module's own scores are those after the most.
        lr: Learning rate.
        optimizer: ``"adam"`` or ``"sgd"``; see :func:`~lit_continual.methods.patient_tuning.tune.Tuning`.
        batch_size: Most slices, or the number of patches in 3D, of a step.
        seed: Seed of the windows.

    Raises:
        ValueError: If an argument is out of range, or a loss is not finite.
        MisconfigurationException: If the module prepares its images by another program; in evaluation, if it is no
            ``Segmenter``, or the volumes come in batches.

    Logs, beside what the module logs, ``test/<score>_after_<steps>`` and ``test/<score>_after_<steps>/<class>`` for
    each number of steps, and the same of ``val``.

    References:
        Wang et al. Interactive Medical Image Segmentation using Deep Learning with Image-specific Fine-tuning. IEEE
        TMI 2018, for tuning to one image.

    Example:
        >>> callback = PatientTuning(slices=3, steps=[0, 5])
    """

    def __init__(
        self,
        slices: int = 3,
        steps: int | Sequence[int] = 20,
        lr: float = 3e-4,
        optimizer: str = "adam",
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if slices < 1:
            raise ValueError(f"`slices` must be 1 or more, got {slices}.")
        self.steps = sorted({steps} if isinstance(steps, int) else {*steps})
        check_options(self.steps, lr, optimizer, batch_size)
        self.slices, self.lr, self.optimizer, self.batch_size, self.seed = slices, lr, optimizer, batch_size, seed
        self._scores: dict[int, VolumeScores] = {}  # by the number of steps
        self._replaced: list[ReplacedMethod] = []

    def added_scores(self, scores: Iterable[str]) -> list[str]:
        """What is logged beside the module's own scores."""
        return [f"{score}_after_{steps}" for score in scores for steps in self.steps]

    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        """Check, before a fit, that slices of a file can be shown to the network of a module."""
        self._require_tunable(pl_module)

    def _require_tunable(self, pl_module: LightningModule) -> None:
        if not all(hasattr(pl_module, part) for part in ("batch_loss", "spatial_dims", "infer")):
            raise MisconfigurationException(
                f"`PatientTuning` tunes a `Segmenter`, and this is a {type(pl_module).__name__}. Leave it out."
            )
        if hasattr(pl_module, "load_case"):
            raise MisconfigurationException(
                f"`PatientTuning` shows a network annotated slices of the file, and {type(pl_module).__name__} prepares"
                " images by another program, on a grid that they do not follow. Leave it out."
            )

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._replace(pl_module, "validation_step")

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._replace(pl_module, "test_step")

    @override
    def release(self, pl_module: LightningModule) -> None:
        for replaced in self._replaced:
            replaced.remove()
        self._replaced, self._scores = [], {}

    def _replace(self, pl_module: LightningModule, name: str) -> None:
        self._require_tunable(pl_module)

        def step(own: Callable[..., Any], batch: Any, *indices: int) -> Any:
            return self._tuned(pl_module, own, batch, *indices)

        self._replaced.append(ReplacedMethod(pl_module, name, step))

    def _tuned(self, module: Any, step: Callable[..., Any], batch: Any, *indices: int) -> Any:
        if len(batch["image"]) > 1:
            raise MisconfigurationException(
                f"`PatientTuning` tunes on one volume at a time, and a batch has {len(batch['image'])}. Set the batch"
                " size of evaluation to 1."
            )
        if not self._scores:  # those after the most steps are the module's own
            own = module.scores
            fresh = {n: VolumeScores(list(own.metrics), own.names, module.device) for n in self.steps[:-1]}
            self._scores = {**fresh, self.steps[-1]: own}
        if "padding" in batch:
            return step(batch, *indices)
        shown = chosen_slices(batch["label"][0, 0], self.slices)
        annotated = torch.zeros_like(batch["label"], dtype=torch.bool)
        annotated[..., shown] = True
        before = {name: value.detach().clone() for name, value in module.state_dict().items()}
        found = {}
        try:
            options = (self.lr, self.optimizer, self.batch_size, self.seed)
            tuning = Tuning(module, seen_volume(batch, annotated), *options) if shown else None
            for steps in self.steps:
                if tuning is not None:
                    tuning.go_to(steps)
                module.scores = self._scores[steps]
                found[steps] = step({**batch, "annotated": annotated}, *indices)
        finally:
            module.load_state_dict(before)
            module.scores = self._scores[self.steps[-1]]
        return _merged(found)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("val", pl_module)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("test", pl_module)

    def _log(self, stage: str, module: LightningModule) -> None:
        for steps, scores in self._scores.items():
            for name, value in scores.logged(counts=False).items():
                score, *of_class = name.split("/", 1)
                module.log("/".join([stage, f"{score}_after_{steps}", *of_class]), value, sync_dist=True)
        self._scores = {}


def _merged(found: Mapping[int, Any]) -> Any:
    """What the step returned after the most steps, with the scores of each class after every number of steps."""
    last = found[max(found)]
    if last is None:
        return None
    scores = {
        name: {
            **own,
            **{f"{s}_after_{n}": v for n, outputs in found.items() for s, v in outputs["scores"][name].items()},
        }
        for name, own in last["scores"].items()
    }
    return {**last, "scores": scores}


def chosen_slices(label: Tensor, count: int) -> list[int]:
    """Those of the slices with a class that are annotated: ``count`` of them, evenly apart, and never all.

    Example:
        >>> chosen_slices(torch.arange(9).expand(2, 2, 9).clamp(max=1), 2), chosen_slices(torch.zeros(2, 2, 4), 2)
        ([3, 6], [])
    """
    found = label.flatten(0, 1).any(0).nonzero().flatten().tolist()
    count = min(count, max(len(found) - 1, 0))
    return [found[len(found) * (n + 1) // (count + 1)] for n in range(count)]


def seen_volume(batch: Any, annotated: Tensor) -> dict[str, Any]:
    """What a network is tuned on: image, label map and annotated voxels of one volume, on the grid that it sees."""
    placed = {"label": batch["label"], "annotated": annotated.float()}
    volume = {name: from_source_grid(value, batch)[0].clone() for name, value in placed.items()}
    return {"image": batch["image"][0].clone(), "classes": batch["classes"][0], **volume}
