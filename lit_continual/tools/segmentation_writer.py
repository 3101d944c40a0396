"""Writing what a segmenter predicts: label maps, probabilities, and DICOM segmentations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from typing_extensions import override

from lit_continual.images.dicom import DicomSeries
from lit_continual.images.file_names import stem
from lit_continual.images.nifti import write_nifti
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.tools.dicom_segmentation import write_segmentation


def prediction_name(image: str | Path, patient: str) -> str:
    """Name of a prediction: that of the first image, without the number of its channel where the case has none."""
    name = stem(image)
    return patient if name == f"{patient}_0000" else name


def name_of(batch: Any) -> str:
    """Name of the prediction of a batch of one image."""
    return prediction_name(batch["path"][0], batch["patient"][0])


def label_values(module: Segmenter) -> dict[str, int]:
    """Value of each class in a label map that is predicted."""
    return {name: k for k, name in enumerate(module.classes, start=1)}


class Predictor(LightningModule):
    """Makes label maps, block by block, in place of the logits that a segmenter returns."""

    def __init__(self, segmenter: Segmenter, probabilities: bool) -> None:
        super().__init__()
        self.segmenter, self.probabilities = segmenter, probabilities

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None]:
        found = self.segmenter.predicted(batch, self.probabilities)
        del batch["image"]  # or the trainer holds it while the next one is loaded
        return found


class SegmentationWriter(BasePredictionWriter):
    """Write each prediction when it is made.

    Where several heads claim a voxel, it goes to the class with the largest log-odds against the background of its own
    head; of regions that lie in one another, to the innermost.

    Args:
        folder: Where files go.
        series: The DICOM series of some images, by name, which get a segmentation as DICOM too.
    """

    def __init__(self, folder: Path, series: Mapping[str, DicomSeries] | None = None) -> None:
        super().__init__("batch")
        self.folder, self.series = folder, series or {}

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert isinstance(pl_module, Predictor)
        found, chances = prediction
        values = label_values(pl_module.segmenter)
        kind = np.uint8 if len(values) <= np.iinfo(np.uint8).max else np.uint16
        labels = found[0].cpu().numpy().astype(kind, copy=False)
        name = name_of(batch)
        self._write(name, labels, batch)
        if (series := self.series.get(name)) is not None:
            write_segmentation(self.folder / f"{series.name}.dcm", labels, series, list(values))
        if chances is not None:
            self._write(f"{name}_probabilities", chances[0].movedim(0, -1).float().cpu().numpy(), batch)

    def _write(self, name: str, array: np.ndarray[Any, Any], batch: Any) -> None:
        affine = np.array(batch["source_affine"][0])
        write_nifti(self.folder / f"{name}.nii.gz", array, affine)
