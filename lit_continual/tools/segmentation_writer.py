"""Writing what a segmenter predicts: label maps, probabilities, and DICOM segmentations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from lit_continual.data.samplers import whole_loader
from lit_continual.images.dicom import DicomSeries
from lit_continual.images.nifti import write_nifti
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.tools.dicom_segmentation import write_segmentation
from lit_continual.tools.failures import Failures


class Predictor(LightningModule):
    """Makes label maps, block by block, in place of the logits that a segmenter returns.

    Args:
        segmenter: The network.
        images: What is predicted, each as whole volumes are, with the ``name`` of its prediction; of one that has
            failed there is no image.
        probabilities: Whether to return them beside the label map.
        failures: Where to note an image that the network fails on.
    """

    def __init__(self, segmenter: Segmenter, images: Dataset[Any], probabilities: bool, failures: Failures) -> None:
        super().__init__()
        self.segmenter, self.images, self.probabilities, self.failures = segmenter, images, probabilities, failures

    @override
    def predict_dataloader(self) -> Any:
        return whole_loader(self.images, self.trainer)

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None] | tuple[()]:
        found: tuple[Tensor, Tensor | None] | tuple[()] = ()
        with self.failures.noted(batch["name"][0]):
            if "image" in batch and "padding" not in batch:
                found = self.segmenter.predicted(batch, self.probabilities)
        batch.pop("image", None)  # or the trainer holds it while the next one is loaded
        return found


class SegmentationWriter(BasePredictionWriter):
    """Write each prediction when it is made.

    Where several heads claim a voxel, it goes to the class with the largest log-odds against the background of its own
    head; of regions that lie in one another, to the innermost.

    Args:
        folder: Where files go.
        values: Value of each class in the label maps, in the order of the network's classes.
        series: The DICOM series of some images, by name, which get a segmentation as DICOM too.
    """

    def __init__(self, folder: Path, values: Mapping[str, int], series: Mapping[str, DicomSeries]) -> None:
        super().__init__("batch")
        kind = np.uint8 if max(len(values), *values.values()) <= np.iinfo(np.uint8).max else np.uint16
        self.folder, self.classes, self.series = folder, list(values), series
        self.values = np.array([0, *values.values()], kind)

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
        if not prediction:
            return
        found, chances = prediction
        name, labels = batch["name"][0], found[0].cpu().numpy().astype(self.values.dtype, copy=False)
        self._write(name, self._valued(labels), batch)
        if chances is not None:
            self._write(f"{name}_probabilities", chances[0].movedim(0, -1).float().cpu().numpy(), batch)
        if (series := self.series.get(name)) is not None:
            with pl_module.failures.noted(name):
                write_segmentation(self.folder / f"{series.name}.dcm", labels, series, self.classes)

    def _valued(self, labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Give classes their values, plane by plane: numpy makes eight bytes of each voxel that it looks up."""
        if np.array_equal(self.values, np.arange(len(self.values))):
            return labels
        found = np.empty_like(labels)
        for k in range(labels.shape[-1]):
            found[..., k] = self.values[labels[..., k]]
        return found

    def _write(self, name: str, array: np.ndarray[Any, Any], batch: Any) -> None:
        affine = np.array(batch["source_affine"][0])
        write_nifti(self.folder / f"{name}.nii.gz", array, affine)
