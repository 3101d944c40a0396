"""A segmenter is tuned on the slices of a study that somebody has annotated."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from lit_continual.data.batch import collate
from lit_continual.data.case_lists.cases import Case, read_cases
from lit_continual.files.whole_files import write_text
from lit_continual.images.file_names import is_image, stem
from lit_continual.images.nifti import write_nifti
from lit_continual.methods.patient_tuning.callback import seen_volume
from lit_continual.methods.patient_tuning.tune import Tuning, check_options
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.network_input import require_channels
from lit_continual.segmentation.region_segmenter import RegionSegmenter
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.segmentation.shared_head import SharedHead
from lit_continual.stream.rehearsal import explained
from lit_continual.tools.adapt.annotation import read_annotation
from lit_continual.tools.adapt.segmentation_figure import write_adaptation
from lit_continual.tools.loader import loader_of
from lit_continual.tools.prediction_names import labels_text, prediction_name, values_of_classes


class AnnotatedStudy:
    """An image of which some slices are annotated, for a segmenter to be tuned on.

    Args:
        opened: The checkpoint.
        module: Its segmenter, which is tuned in place.
        study: An image, or a folder, list or table of one.
        annotation: Its label map, of which a part counts.
        slices: See :func:`~lit_continual.tools.adapt.annotation.read_annotation`.
        ignore: See there.
        classes: The classes that are annotated; by default all of the segmenter's.
        steps: Steps of the optimizer; by default 20.
        optimizer: ``adam``, the default, or ``sgd``.
        lr: Learning rate; by default 3e-4.
        batch_size: Most slices, or the number of patches, of a step.
        seed: Seed of the windows.

    Raises:
        ValueError: If the segmenter is of a kind that cannot be tuned so, the study is not one image that it takes, or
            the annotation cannot be used.
    """

    def __init__(
        self,
        opened: Checkpoint,
        module: Segmenter,
        study: str,
        annotation: str | None,
        slices: Sequence[int] | None,
        ignore: int | None,
        classes: Sequence[str] | None,
        steps: int | None,
        optimizer: str | None,
        lr: float | None,
        batch_size: int | None,
        seed: int,
    ) -> None:
        _require_tunable(opened.path, module)
        if annotation is None:
            raise ValueError(
                f"{opened.path} is of a Segmenter, which is adapted to annotated slices. Give a label map of the study"
                " by --annotation."
            )
        self.module, self.case, self.seed = module, _only_case(study), seed
        self.steps, self.lr = 20 if steps is None else steps, 3e-4 if lr is None else lr
        self.optimizer, self.batch_size = optimizer or "adam", batch_size
        check_options([self.steps], self.lr, self.optimizer, batch_size)
        sample = loader_of(module, opened)(self.case)
        require_channels(module.body, sample["image"], self.case.images[0])
        self.annotation = read_annotation(Path(annotation), sample, module.classes, slices, ignore)
        names = _revealed(opened.path, module, classes)
        label = _in_order(Path(annotation), self.annotation.label, module.classes, names)
        self.batch = collate([{**sample, "label": label, "classes": names}])
        self.seen = seen_volume(self.batch, self.annotation.annotated[None])
        if not self.seen["annotated"].any():
            raise ValueError(
                f"Of {annotation} no annotated voxel is left at the voxel size of the network. Annotate larger parts."
            )
        name = prediction_name(self.case.images[0], self.case.patient)
        #: What is written: the checkpoint, then what :meth:`write` gets.
        self.outputs = ["model.ckpt", f"{name}.nii.gz", "adapted.png", "labels.json"]
        #: What is read beside the checkpoint.
        self.files = (*self.case.images, Path(annotation))
        #: What distinguishes one adaptation from another.
        known = [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in self.annotation]
        self.options = [*known, names, self.steps, self.optimizer, self.lr, batch_size, seed]

    @torch.no_grad()
    def answer(self) -> NDArray[Any]:
        """The label map ``(H, W, D)`` in the grid of the file."""
        batch: Any = {**self.batch, "image": self.batch["image"].to(self.module.device)}
        labels = self.module.predicted(batch)[0][0]
        kind = np.uint8 if len(self.module.classes) <= np.iinfo(np.uint8).max else np.uint16
        return labels.cpu().numpy().astype(kind)

    def train(self, accelerator: str) -> dict[str, Any]:
        """Tune the segmenter; no callback has a state.

        Raises:
            ValueError: If there is no such accelerator, or the loss is not finite.
        """
        with explained("The adaptation cannot run"):
            device = Fabric(accelerator=accelerator, devices=1).device
        module = self.module.to(device)
        Tuning(module, self.seen, self.lr, self.optimizer, self.batch_size, self.seed).go_to(self.steps)
        self.module.cpu()
        return {}

    def write(self, paths: Sequence[Path], before: NDArray[Any], after: NDArray[Any]) -> None:
        """Write the label map, the picture and the names of the values."""
        image, picture, labels = paths
        write_nifti(image, after, np.array(self.batch["source_affine"][0]))
        shown = self.module.to_source_grid(self.batch["image"], self.batch)[0, 0].numpy()
        write_adaptation(picture, shown, self.annotation, before, after, self.batch["spacing"][0], self.module.classes)
        write_text(labels, labels_text(values_of_classes(self.module)))


def _require_tunable(path: Path, module: Segmenter) -> None:
    """Refuse segmenters whose label map does not say what their heads learn, or that prepare images elsewhere."""
    if isinstance(module, RegionSegmenter):
        raise ValueError(
            f"{path} is of a RegionSegmenter, whose label maps show one of the regions that overlap, so that none can"
            " be annotated in them. Train it on the parts of the regions instead."
        )
    if hasattr(module, "load_case"):
        raise ValueError(
            f"{path} is a model of another program, which prepares images itself, and the annotation would not follow."
            " Tune it there, or train it on the study by `fit`."
        )


def _only_case(study: str) -> Case:
    path = Path(study)
    if path.is_file() and is_image(path):
        return Case((path,), None, stem(path))
    cases = read_cases(study).cases
    if len(cases) > 1:
        raise ValueError(f"{study} holds {len(cases)} images, and a network is adapted to one. Name its file.")
    return cases[0]


def _revealed(path: Path, module: Segmenter, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The annotated classes, in the order of the checkpoint."""
    names = tuple(module.classes if classes is None else [name for name in module.classes if name in classes])
    if unknown := [name for name in classes or () if name not in names]:
        raise ValueError(f"`--classes` names {unknown[0]}, and {path} knows {', '.join(module.classes)}. Correct it.")
    if isinstance(module.heads, SharedHead) and len(names) < len(module.classes):
        raise ValueError(
            f"The classes of {path} share one softmax, which cannot be tuned on {', '.join(names)} alone. Annotate all"
            " of them, and leave `--classes` out."
        )
    if not names:
        raise ValueError(f"`--classes` names no class of {path}, which knows {', '.join(module.classes)}.")
    module.heads.missing(names)  # a head learns from all of its classes or none
    return names


def _in_order(path: Path, label: Tensor, classes: Sequence[str], names: Sequence[str]) -> Tensor:
    """A label map of all classes as one of those that are annotated."""
    places = torch.tensor([0, *(names.index(name) + 1 if name in names else -1 for name in classes)])
    found = places[label]
    if (found < 0).any():
        name = classes[int(label[found < 0][0]) - 1]
        raise ValueError(f"{path} has labels of {name}, which `--classes` does not name. Name it there.")
    return found
