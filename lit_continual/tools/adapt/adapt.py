"""The door to both ways of adapting a checkpoint to a study; the kind of the checkpoint decides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningModule, seed_everything
from numpy.typing import NDArray

from lit_continual.data.arguments import require_at_least
from lit_continual.denoising.denoiser import Denoiser
from lit_continual.files.folder_lock import FolderLock
from lit_continual.files.outputs import require_apart, require_folder, require_new
from lit_continual.files.whole_files import HIGHEST, remove_parts
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.stream.rehearsal import explained
from lit_continual.tools.adapt.adapted_checkpoint import digest_of, origin, write_adapted
from lit_continual.tools.adapt.denoising import NoisyStudy
from lit_continual.tools.adapt.segmentation import AnnotatedStudy


def adapt(
    checkpoint: str,
    study: str,
    output: str = "adapted",
    annotation: str | None = None,
    slices: Sequence[int] | None = None,
    ignore: int | None = None,
    classes: Sequence[str] | None = None,
    steps: int | None = None,
    optimizer: Literal["adam", "sgd"] | None = None,
    phi: float | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    trust: str | Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Retrain a network on one study, and apply it there.

    A ``Denoiser`` is retrained on noise realisations of the study, by Noise2Noise. A ``Segmenter`` is tuned on the
    slices of the study that somebody has annotated.

    Args:
        checkpoint: A checkpoint of a ``Segmenter`` or a ``Denoiser``, which is left as it is.
        study: Of a segmenter: an image, or a folder with one, its channels as ``NAME_0000``, ``NAME_0001``, …. Of a
            denoiser: two noise realisations or more: a folder or list of images, an image with frames, or an
            acquisition.
        output: Folder for ``model.ckpt``, ``<study>.nii.gz``, and ``adapted.png``, which shows before and after; for a
            segmenter also ``labels.json``, which names the label values.
        annotation: Segmenter: a label map of a part of the study, in the grid of its file and with the values that
            ``predict`` writes. Slices along the last axis of the file that hold a label are annotated in whole, and
            what has no label there is background.
        slices: Segmenter: the slices that are annotated, counted from 0, in place of those that hold a label: for
            slices in which there is nothing to annotate.
        ignore: Segmenter: the value of voxels that are not annotated, in place of slices: all others are.
        classes: Segmenter: the classes that are annotated; all of the checkpoint's, if left out.
        steps: Segmenter: steps on the annotated slices; 20, if left out.
        optimizer: Segmenter: ``adam``, if left out, or ``sgd``.
        phi: Denoiser: threshold of targeted gradient descent, such as 0.4: TGD_N2N. Without it all kernels are
            retrained.
        epochs: Denoiser: passes over the study; 150, if left out.
        lr: Learning rate; if left out 0.0003 for a segmenter and 0.0001 for a denoiser.
        batch_size: Slices a batch, 8 if left out; of a 3D segmenter patches, 2 if left out.
        seed: Seed of all that is drawn.
        accelerator: As for the Trainer.
        trust: Package of your own whose classes the checkpoint may name, or a list of them.
        overwrite: Replace what is there already.

    Returns:
        The folder.

    Raises:
        ValueError: If the checkpoint is neither's, the study or the annotation is not what it takes, a number is out of
            range, an option is for the other kind, an answer is not finite, a file would fall on what is read, or
            unasked on what is there, or another process writes there.
    """
    require_at_least(1, batch_size=batch_size)
    require_at_least(0, epochs=epochs, steps=steps, seed=seed)
    if lr is not None and not 0 < lr <= HIGHEST:
        raise ValueError(f"`lr` must be above 0, got {lr:g}, and at most {HIGHEST:g}.")
    folder, opened = Path(output), Checkpoint(checkpoint, trust)
    with explained("The adaptation cannot run"):
        seed_everything(seed, verbose=False)
    to_segment: Options = {"annotation": annotation, "slices": slices, "ignore": ignore, "classes": classes}
    to_segment |= {"steps": steps, "optimizer": optimizer}
    both = {"lr": lr, "batch_size": batch_size, "seed": seed}
    task = _task(opened, study, to_segment, {"phi": phi, "epochs": epochs}, both)
    outputs = [folder / name for name in task.outputs]
    require_folder(folder)
    require_apart([*outputs, folder], [checkpoint, study, *task.files])
    made_of = digest_of(opened, study, *task.options)
    with FolderLock(folder).held():
        require_new(outputs, overwrite or origin(outputs[0]) == made_of)
        before = _answered(task, f"{checkpoint} answers {study} with numbers that are nan or infinite. Correct it.")
        states = task.train(accelerator)
        after = _answered(task, "The adapted network answers with nan or infinite numbers. Choose a smaller `lr`.")
        write_adapted(outputs[0], opened, task.module, states, made_of)
        task.write(outputs[1:], before, after)
        remove_parts(outputs)
    return folder


def _answered(task: AnnotatedStudy | NoisyStudy, wrong: str) -> NDArray[Any]:
    answer = task.answer()
    if not np.isfinite(answer).all():
        raise ValueError(wrong)
    return answer


Options = dict[str, Any]


def _task(
    opened: Checkpoint, study: str, to_segment: Options, to_denoise: Options, both: Options
) -> AnnotatedStudy | NoisyStudy:
    """What the kind of the checkpoint asks for, with the options of that kind alone."""
    module: LightningModule = opened.module(Segmenter, Denoiser)
    if isinstance(module, Segmenter):
        _refuse(to_denoise, "Denoiser", opened.path)
        return AnnotatedStudy(opened, module, study, **to_segment, **both)
    assert isinstance(module, Denoiser)
    _refuse(to_segment, "Segmenter", opened.path)
    return NoisyStudy(module, study, **to_denoise, **both)


def _refuse(options: Options, kind: str, path: Path) -> None:
    """Refuse options of the other kind of checkpoint."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"`--{name}` is for checkpoints of a {kind}, which {path} is not. Leave it out.")
