"""Segmenting new volumes with a checkpoint and nothing else."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lit_continual.data import Case, Sample, collate, read_cases
from lit_continual.data.cases import stem
from lit_continual.data.dicom import DicomSeries, holds_dicom, read_series
from lit_continual.data.nifti import write_nifti
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter
from lit_continual.runs.checkpoint import Checkpoint
from lit_continual.runs.files import is_first_rank, write_text
from lit_continual.runs.outputs import require_apart, require_folder, require_new
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.stream.rehearsal import explained
from lit_continual.tools.dicom_segmentation import write_segmentation
from lit_continual.tools.loader import loader_of


def predict(
    checkpoint: str,
    images: str,
    output: str = "predictions",
    probabilities: bool = False,
    mirror: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    trust: str | Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a label map of every image, in the grid of its file; of a DICOM series also a DICOM segmentation.

    The files have a header of their own: where the image lies, in mm, and nothing else of what its header says.

    Args:
        checkpoint: A checkpoint of a ``Segmenter``, which knows its network, heads, classes and preprocessing, or a
            trained model of another program, such as a folder of nnU-Net.
        images: A folder of images, a Decathlon list or a CSV table; or a folder of DICOM series of CT, MR or PET,
            which the extra ``dicom`` reads.
        output: Folder for ``<image>.nii.gz`` and ``labels.json``, which names the values. Of channels ``NAME_0000``,
            ``NAME_0001``, … the name is ``NAME``; of a series, which is named by its folder, there is ``<series>.dcm``
            too.
        probabilities: Write ``<image>_probabilities.nii.gz`` too, one channel a class along the fourth axis.
        mirror: Average over mirrored images too, along the axes that training has mirrored; for models of nnU-Net.
        accelerator: As for the Trainer.
        devices: As for the Trainer.
        trust: Package of your own whose classes the checkpoint may name, or a list of them.
        overwrite: Replace predictions that are there already, and remove probabilities that belong to them.

    Returns:
        The folder.

    Raises:
        ValueError: If the checkpoint is no Segmenter's, an image cannot be read, two images have one name, or a
            prediction would fall on an image, or unasked on what is there.
    """
    opened = Checkpoint(checkpoint, trust)
    module = opened.module(Segmenter)
    load = loader_of(module, opened)
    if mirror:
        _mirror(module)
    with _readable(images) as (readable, series):
        cases = read_cases(readable).cases
        _check_names(cases)
        folder, labels = Path(output), json.dumps({"background": 0, **label_values(module)}, indent=1) + "\n"
        with explained("The prediction cannot run"):
            trainer = Trainer(
                accelerator=accelerator,
                devices=devices,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                callbacks=[SegmentationWriter(folder, probabilities, series)],
            )
        files = [file for one in series.values() for file in one.files]
        _make_room(folder, labels, cases, [checkpoint, *files, images], overwrite, series)
        write_text(folder / "labels.json", labels)
        loader: DataLoader[Any] = DataLoader(_Images(cases, load), batch_size=1, collate_fn=collate)
        trainer.predict(module, loader, return_predictions=False)
    return folder


@contextlib.contextmanager
def _readable(images: str) -> Iterator[tuple[str, dict[str, DicomSeries]]]:
    """What to read in place of ``images``: of DICOM series, NIfTI files in a folder that is then removed."""
    if not holds_dicom(images):
        yield images, {}
        return
    found = {series.name: series for series in read_series(images)}
    with tempfile.TemporaryDirectory(prefix="lit-continual-") as folder:
        for name, series in found.items():
            write_nifti(Path(folder) / f"{name}.nii.gz", series.voxels(), series.affine)
        try:
            yield folder, found
        except ValueError as error:
            raise ValueError(str(error).replace(folder, images)) from error


def prediction_name(image: str | Path, patient: str) -> str:
    """Name of a prediction: that of the first image, without the number of its channel where the case has none."""
    name = stem(image)
    return patient if name == f"{patient}_0000" else name


def _mirror(module: Segmenter) -> None:
    if not isinstance(module, NNUNetSegmenter):
        raise ValueError(f"--mirror is for models of nnU-Net, and this is a {type(module).__name__}. Leave it out.")
    module.mirror = True


def _check_names(cases: Sequence[Case]) -> None:
    found: dict[str, Case] = {}
    for case in cases:
        if (other := found.setdefault(prediction_name(case.images[0], case.patient), case)) is not case:
            raise ValueError(
                f"The predictions of {other.images[0]} and {case.images[0]} would have one name. Rename one,"
                " or predict them into two folders."
            )


def _make_room(
    folder: Path,
    labels: str,
    cases: Sequence[Case],
    given: Sequence[str | Path],
    overwrite: bool,
    series: Mapping[str, DicomSeries],
) -> None:
    """Check that predictions fall on nothing, and take away what would be left of another network among them."""
    names = [prediction_name(case.images[0], case.patient) for case in cases]
    maps = [folder / f"{name}.nii.gz" for name in names]
    chances = [folder / f"{name}_probabilities.nii.gz" for name in names]
    maps += [folder / f"{name}.dcm" for name in series]
    named = folder / "labels.json"
    require_folder(folder)
    files = [file for case in cases for file in (*case.images, case.label) if file is not None]
    places = {file.parent for file in [*files, *map(Path, given[1:-1])]} if Path(given[-1]).is_dir() else set()
    require_apart([*maps, *chances, named, folder], [*given, *files, *places])
    same = named.is_file() and named.read_text(encoding="utf-8", errors="replace") == labels
    require_new([*maps, *chances, *([] if same else [named])], overwrite or not is_first_rank())
    for path in chances if is_first_rank() else ():
        path.unlink(missing_ok=True)


def label_values(module: Segmenter) -> dict[str, int]:
    """Value of each class in a label map that is predicted."""
    return {name: k for k, name in enumerate(module.classes, start=1)}


class _Images(Dataset[Sample]):
    def __init__(self, cases: Sequence[Case], load: Callable[[Case], Sample]) -> None:
        self.cases, self.load = cases, load

    def __len__(self) -> int:
        return len(self.cases)

    @override
    def __getitem__(self, index: int) -> Sample:
        return self.load(self.cases[index])


class SegmentationWriter(BasePredictionWriter):
    """Write each prediction when it is made.

    Where several heads claim a voxel, it goes to the class with the largest log-odds against the background of its own
    head; of regions that lie in one another, to the innermost.

    Args:
        folder: Where files go.
        probabilities: Write these too.
        series: The DICOM series of some images, by name, which get a segmentation as DICOM too.
    """

    def __init__(
        self, folder: Path, probabilities: bool = False, series: Mapping[str, DicomSeries] | None = None
    ) -> None:
        super().__init__("batch")
        self.folder, self.probabilities, self.series = folder, probabilities, series or {}

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
        assert isinstance(pl_module, Segmenter)
        kind = np.uint8 if len(pl_module.classes) <= np.iinfo(np.uint8).max else np.uint16
        labels = pl_module.labels(prediction.float())[0].cpu().numpy().astype(kind)
        name = prediction_name(batch["path"][0], batch["patient"][0])
        self._write(name, labels, batch)
        if (series := self.series.get(name)) is not None:
            write_segmentation(self.folder / f"{series.name}.dcm", labels, series, list(label_values(pl_module)))
        if self.probabilities:
            chances = pl_module.probabilities(prediction.float())[0]
            moved = chances.movedim(0, -1).float().cpu().numpy()
            self._write(f"{name}_probabilities", moved, batch)

    def _write(self, name: str, array: np.ndarray[Any, Any], batch: Any) -> None:
        affine = np.array(batch["source_affine"][0])
        write_nifti(self.folder / f"{name}.nii.gz", array, affine)
