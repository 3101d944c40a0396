"""Scoring a network on an experience: the means, and scores and a picture of every case."""

import copy
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from tqdm.auto import tqdm
from typing_extensions import override

from lit_continual.images.file_names import stem
from lit_continual.runs.case_scores import CaseScores

PICTURED = 24  # cases of an experience of which a slice is kept


def evaluate(
    trainer: Trainer, module: LightningModule, data: LightningDataModule, stage: Literal["test", "validate"]
) -> dict[str, float]:
    """Score a module on the test or validation cases of an experience.

    Progress bar and checkpoints are taken off the trainer: in a stream there are many of these runs, and a
    ``CaseRecorder`` shows their progress.

    Returns:
        What the module logged as ``test/<name>`` or ``val/<name>``, by name.
    """
    for callback in [trainer.progress_bar_callback, *trainer.checkpoint_callbacks]:
        if callback is not None:
            trainer.callbacks.remove(callback)  # type: ignore[attr-defined]
    getattr(trainer, stage)(module, datamodule=data, verbose=False)
    prefix = {"test": "test/", "validate": "val/"}[stage]
    logged = trainer.callback_metrics.items()
    return {name.removeprefix(prefix): float(value) for name, value in logged if name.startswith(prefix)}


def validated(data: LightningDataModule) -> LightningDataModule:
    """A twin of a data module that gives its volumes to validate on where those to test on are asked for."""
    twin = copy.copy(data)
    if hasattr(twin, "tested"):  # whose batches to validate and to test on differ
        twin.tested = "val"
        return twin

    class Twin(type(data)):  # type: ignore[misc]
        def setup(self, stage: str) -> None:
            super().setup("validate")

        def test_dataloader(self) -> Any:
            return super().val_dataloader()

        def teardown(self, stage: str) -> None:
            super().teardown("validate")

    twin.__class__ = Twin
    return twin


class CaseRecorder(Callback):
    """Collect what ``test_step`` returns about each case: its ``scores`` by class, and a slice of its masks.

    Args:
        after: Index of the experience that was learnt last.
        on: Index of the experience that is evaluated.
    """

    def __init__(self, after: int, on: int) -> None:
        self.after, self.on = after, on
        self.cases: list[CaseScores] = []
        self.overlays: list[dict[str, Any]] = []  # of the first cases of this process

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        off = not trainer.is_global_zero or None  # None: off unless somebody looks
        self.bar = tqdm(total=sum(map(int, trainer.num_test_batches)), desc="Testing", leave=False, disable=off)

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.bar.update()
        if not isinstance(outputs, Mapping) or "scores" not in outputs:
            return  # Somebody else's module: its logged scores are all there is.
        whose = {"patient": str(batch["patient"][0]), "volume": stem(batch["path"][0]) if "path" in batch else ""}
        for name, scores in outputs["scores"].items():
            self.cases.append(CaseScores(self.after, self.on, whose["patient"], name, scores, whose["volume"]))
        if len(self.overlays) < PICTURED and outputs["truth"]:
            if "image" in outputs:  # a picture that the module made
                image, spacing = outputs["image"], outputs["spacing"]
            else:
                to_source_grid: Any = getattr(pl_module, "to_source_grid", lambda image, batch: image)
                image, spacing = to_source_grid(batch["image"], batch)[0, 0], batch["spacing"][0]
            self.overlays.append(_overlay(image, outputs, whose, spacing))

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()
        gathered: list[Any] = [self.cases] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(gathered, self.cases)
        self.cases = sorted((c for cases in gathered for c in cases), key=attrgetter("patient", "volume", "label"))


def _overlay(
    image: Tensor, outputs: Mapping[str, Any], whose: Mapping[str, str], spacing: Sequence[float]
) -> dict[str, Any]:
    """Take the slice along the last axis with the most truth, turned so that the second axis points up."""
    names = list(outputs["truth"])
    z = int(sum(outputs["truth"][name].sum((0, 1)) for name in names).argmax())

    def shown(plane: Tensor, dtype: Any) -> Any:
        array = plane.float().cpu().numpy()  # of bfloat16, which numpy does not know
        return np.rot90(array.astype(dtype), axes=(-2, -1)).copy()

    def planes(masks: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([masks[name][..., z].cpu() for name in names])

    return {
        "image": shown(image[..., z], np.float32),
        "truth": shown(planes(outputs["truth"]), np.uint8),
        "prediction": shown(planes(outputs["prediction"]), np.uint8),
        "classes": np.array(names),
        **{name: np.array(value) for name, value in whose.items()},
        "spacing": np.array([float(spacing[1]), float(spacing[0])]),
        "slice": np.array(z),
    }
