"""Segmenting new volumes with a checkpoint and nothing else."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from torch.utils.data import Dataset
from typing_extensions import override

from lit_continual.data import Case, Sample, read_cases
from lit_continual.files.folder_lock import alone
from lit_continual.files.outputs import require_apart, require_folder, require_new
from lit_continual.files.whole_files import is_first_rank, remove_parts, write_text
from lit_continual.images.dicom import DicomSeries, holds_dicom, read_series
from lit_continual.images.nifti import write_nifti
from lit_continual.images.pet_suv import voxels_as
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.stream.rehearsal import explained, require_devices
from lit_continual.stream.tracking import announce, quiet
from lit_continual.tools.failures import Failures
from lit_continual.tools.loader import loader_of
from lit_continual.tools.prediction_names import labels_text, prediction_names, values_of_classes
from lit_continual.tools.segmentation_writer import Predictor, SegmentationWriter
from lit_continual.tools.unfinished import Unfinished, made_of


def predict(
    checkpoint: str,
    images: str,
    output: str = "predictions",
    probabilities: bool = False,
    mirror: bool = False,
    overlap: float | None = None,
    sw_batch_size: int | None = None,
    stitch_device: Literal["same", "cpu"] | None = None,
    stitch_dtype: Literal["float32", "float16"] | None = None,
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] | None = None,
    pet: Literal["suv", "stored"] | None = None,
    label_values: dict[str, int] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    trust: str | Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a label map of every image, in the grid of its file; of a DICOM series also a DICOM segmentation.

    The files have a header of their own: where the image lies, in mm, and nothing else of what its header says. An
    image that cannot be predicted is named, and the others are. The same call goes on with one that was interrupted.

    Args:
        checkpoint: A checkpoint of a ``Segmenter``, which knows its network, heads, classes and preprocessing, or a
            trained model of another program, such as a folder of nnU-Net.
        images: A folder of images, a Decathlon list or a CSV table; or a folder of DICOM series of CT, MR or PET,
            which the extra ``dicom`` reads.
        output: Folder for ``<image>.nii.gz`` and ``labels.json``, which names the values. Of channels ``NAME_0000``,
            ``NAME_0001``, … the name is ``NAME``; of a series, which is named by its folder, there is ``<series>.dcm``
            too. Where images of two folders have one name, all begin with that of their folder.
        probabilities: Write ``<image>_probabilities.nii.gz`` too, one channel a class along the fourth axis.
        mirror: Average over mirrored images too, along the axes that training has mirrored; for models of nnU-Net.
        overlap: Share of a window that it has in common with the next; the checkpoint's where it is left out, as of the
            next three.
        sw_batch_size: Windows that go through the network together.
        stitch_device: Where the answers of windows are added up: where the network is, or on the CPU.
        stitch_dtype: How sums are kept between windows; float16 takes half of the memory, and is not quite exact.
        precision: In what the network computes, as for the Trainer; float32 if left out, and for models of nnU-Net
            their own. Half precision is faster on a GPU, and not quite exact.
        pet: What DICOM series of PET in Bq/ml become: ``suv``, by body weight, dose and decay in their headers, or what
            is ``stored``. Without it they are refused.
        label_values: Value of each class in the label maps, such as ``{liver: 6, left lung: 1, right lung: 1}``:
            classes of one value are merged, and one of 0 is left out. Without it, numbers from 1 in their order.
        accelerator: As for the Trainer.
        devices: As for the Trainer.
        trust: Package of your own whose classes the checkpoint may name, or a list of them.
        overwrite: Replace predictions that are there already, and remove probabilities that belong to them.

    Returns:
        The folder.

    Raises:
        ValueError: If the checkpoint is no Segmenter's, two images have one name, or a prediction would fall on an
            image, or unasked on what is there, or another process writes there; in the end, if there are images
            without a prediction.
    """
    require_devices(devices)
    opened = Checkpoint(checkpoint, trust)
    module = opened.module(Segmenter)
    load = loader_of(module, opened)
    if mirror:
        _mirror(module)
    asked: dict[str, Any] = {"overlap": overlap, "sw_batch_size": sw_batch_size}
    asked |= {"stitch_device": stitch_device, "stitch_dtype": stitch_dtype}
    asked = {name: value for name, value in asked.items() if value is not None}
    half = {"precision": precision} if precision not in (None, "32-true") else {}
    _require_known(module, [*asked, *half])
    module.inference = replace(module.inference, **asked)
    folder, classes = Path(output), values_of_classes(module, label_values)
    require_folder(folder)
    with _readable(images, pet) as (readable, series), alone(folder), quiet():
        listed = read_cases(readable)
        named = prediction_names(listed.cases, probabilities)
        if listed.source.name == "dataset.json":
            announce(f"{len(named)} images that {listed.source} lists; for others, give the folder that they are in")
        labels = labels_text(classes)
        known = made_of(opened, labels=labels, probabilities=probabilities, mirror=mirror, pet=pet, **asked, **half)
        record = Unfinished(folder, known, *_inputs_and_outputs(folder, named, series, probabilities))
        left = named if overwrite else {name: case for name, case in named.items() if name not in record.done}
        failures = Failures(len(left), lambda said: said.replace(readable, images))
        with explained("The prediction cannot run"):
            trainer = Trainer(
                accelerator=accelerator,
                devices=devices,
                precision=precision,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                callbacks=[SegmentationWriter(folder, classes, series), record, failures],
            )
        files = [file for one in series.values() for file in one.files]
        _make_room(folder, labels, named, [checkpoint, *files, images], overwrite, series, record)
        predictor = Predictor(module, _Images(left, load, failures), probabilities, failures)
        with record.undone(folder / "labels.json"):
            write_text(folder / "labels.json", labels)
            if left:
                trainer.predict(predictor, return_predictions=False)
            failures.require_none()
        record.end(trainer.global_rank)
    return folder


@contextlib.contextmanager
def _readable(images: str, pet: str | None) -> Iterator[tuple[str, dict[str, DicomSeries]]]:
    """What to read in place of ``images``: of DICOM series, NIfTI files in a folder that is then removed."""
    found = {series.name: series for series in (read_series(images) if holds_dicom(images) else ())}
    if pet is not None and not any(series.kind == "PET" for series in found.values()):
        raise ValueError(f"--pet is for DICOM series of PET, of which {images} holds none. Leave it out.")
    if not found:
        yield images, {}
        return
    with tempfile.TemporaryDirectory(prefix="lit-continual-") as folder:
        for name, series in found.items():
            write_nifti(Path(folder) / f"{name}.nii.gz", voxels_as(series, pet), series.affine)
        try:
            yield folder, found
        except ValueError as error:
            raise ValueError(str(error).replace(folder, images)) from error


def _mirror(module: Segmenter) -> None:
    if not isinstance(module, NNUNetSegmenter):
        raise ValueError(f"--mirror is for models of nnU-Net, and this is a {type(module).__name__}. Leave it out.")
    module.mirror = True


def _require_known(module: Segmenter, options: Sequence[str]) -> None:
    if others := [name for name in options if isinstance(module, NNUNetSegmenter) and name not in module.CHOICES]:
        raise ValueError(
            f"--{others[0]} is not for models of nnU-Net, which goes window by window and adds up in half precision by"
            f" its own code. Leave it out; it knows {' and '.join(f'--{name}' for name in NNUNetSegmenter.CHOICES)}."
        )


def _make_room(
    folder: Path,
    labels: str,
    cases: Mapping[str, Case],
    given: Sequence[str | Path],
    overwrite: bool,
    series: Mapping[str, DicomSeries],
    record: Unfinished,
) -> None:
    """Check that predictions fall on nothing, and take away what would be left of another network among them."""
    maps = [folder / f"{name}.nii.gz" for name in cases]
    chances = [folder / f"{name}_probabilities.nii.gz" for name in cases]
    maps += [folder / f"{name}.dcm" for name in series]
    named = folder / "labels.json"
    files = [file for case in cases.values() for file in case.files]
    places = {file.parent for file in [*files, *map(Path, given[1:-1])]} if Path(given[-1]).is_dir() else set()
    require_apart([*maps, *chances, named, folder], [*given, *files, *places])
    same = named.is_file() and named.read_text(encoding="utf-8", errors="replace") == labels
    if not is_first_rank():
        return
    written = set() if overwrite else record.written
    new = [path for path in [*maps, *chances] if path not in written]
    require_new([*new, *([] if same else [named])], overwrite)
    for path in set(chances) - written:
        path.unlink(missing_ok=True)
    record.begin()
    remove_parts([named])


def _inputs_and_outputs(
    folder: Path, cases: Mapping[str, Case], series: Mapping[str, DicomSeries], probabilities: bool
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The files that each prediction is made of, and those that are made, by its name."""
    inputs, outputs = {}, {}
    for name, case in cases.items():
        inputs[name] = list(series[name].files) if name in series else list(case.images)
        ends = [".nii.gz", *([".dcm"] if name in series else []), *(["_probabilities.nii.gz"] if probabilities else [])]
        outputs[name] = [folder / f"{name}{end}" for end in ends]
    return inputs, outputs


class _Images(Dataset[Mapping[str, Any]]):
    def __init__(self, cases: Mapping[str, Case], load: Callable[[Case], Sample], failures: Failures) -> None:
        self.cases, self.load, self.failures = [*cases.items()], load, failures

    def __len__(self) -> int:
        return len(self.cases)

    @override
    def __getitem__(self, index: int) -> Mapping[str, Any]:
        name, case = self.cases[index]
        loaded: Mapping[str, Any] = {}
        with self.failures.noted(name):
            loaded = self.load(case)
        return {**loaded, "name": name}
