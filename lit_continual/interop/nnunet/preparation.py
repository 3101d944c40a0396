"""Images as nnU-Net prepares them, by its own code, and its answers back in the grid of the file.

nnU-Net's arrays have the axes of a file the other way around. The axis along which a 2D network goes slice by slice is
its first one; here it is the last one, as in all volumes of this package.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from torch import Tensor

from lit_continual.data.batch import Batch, Matrix, Sample
from lit_continual.data.case_lists.cases import Case
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.data.volumes import load_case, require_mm
from lit_continual.files.printing import printable_errors
from lit_continual.files.whole_files import explaining, in_one_line
from lit_continual.interop.nnunet.trained import MALFORMED, Trained, nnunetv2

AS_STORED = Preprocessing(orientation=None, normalise=())


class Prepared(Sample, total=False):
    """A sample with what undoes its preparation.

    Attributes:
        read_spacing: Voxel size along the axes of nnU-Net's array, in mm.
        read_shape: Size of that array with its axes in the order of the plans.
        box: First and last voxel, exclusive, along each axis of the box around what is not zero.
        outside: With a label map, whether a voxel lies outside of what is not zero, ``(1, *spatial)``.
    """

    read_spacing: tuple[float, ...]
    read_shape: tuple[int, ...]
    box: tuple[tuple[int, int], ...]
    outside: Tensor


@printable_errors()
def prepared(case: Case, trained: Trained, label: Callable[[Sample], NDArray[Any]] | None = None) -> Prepared:
    """Load the image of a case and prepare it as nnU-Net does: crop, normalise, resample.

    Args:
        case: Whose image.
        trained: The model that prepares it.
        label: Loads its label map ``(1, H, W, D)``, which lies on the grid of the image that it is given, to be
            prepared with it.

    Raises:
        ValueError: If a file cannot be read or prepared, or the image has other channels than the model takes.
    """
    found = load_case(case, AS_STORED)  # says where it lies, and what is wrong with it
    if len(found["image"]) != trained.channels:
        raise ValueError(
            f"{case.images[0]} has {len(found['image'])} channels, and the model takes {trained.channels}. Give"
            " files NAME_0000, NAME_0001, … as the channels of one image."
        )
    if not bool(found["image"].any()):
        raise ValueError(f"{case.images[0]} is zero in all voxels, so nnU-Net crops all of it. Take it off the list.")
    sizes, wanted = sorted(found["spacing"]), sorted(trained.spacing)
    require_mm(case.images[0], found["image"].shape[1:], sizes, [*wanted, *sizes[len(wanted) :]])
    package = nnunetv2()
    preprocessor = package.preprocessing.preprocessors.default_preprocessor.DefaultPreprocessor(verbose=False)
    truth = None if label is None else _as_read(label(found), found["source_affine"], trained)
    try:
        array, properties = trained.manager.image_reader_writer_class().read_images([str(p) for p in case.images])
        image, seg, properties = preprocessor.run_case_npy(
            array, truth, properties, trained.manager, trained.settings, trained.dataset
        )
    except MALFORMED as error:
        raise ValueError(
            f"nnU-Net cannot prepare {case.images[0]} ({in_one_line(error)}). Convert it, or take another model."
        ) from error
    sample: dict[str, Any] = {
        **found,
        "image": _ours(torch.from_numpy(np.ascontiguousarray(image, np.float32)), trained),
        "read_spacing": tuple(float(size) for size in properties["spacing"]),
        "read_shape": tuple(int(size) for size in properties["shape_before_cropping"]),
        "box": tuple((int(a), int(b)) for a, b in properties["bbox_used_for_cropping"]),
    }
    if label is not None:
        whole = torch.from_numpy(np.ascontiguousarray(seg))
        sample["label"] = _ours(whole.clamp(min=0).byte(), trained)
        sample["outside"] = _ours(whole < 0, trained)
    return cast(Prepared, sample)


class Grids(NamedTuple):
    """The grids of a prepared image and of the array that nnU-Net has read, with the axes of the plans.

    Attributes:
        current: Voxel size of the prepared image.
        read: Voxel size of the array.
        shape: Voxels of the array.
        box: See :class:`Prepared`.
    """

    current: list[float]
    read: list[float]
    shape: tuple[int, ...]
    box: Sequence[tuple[int, int]]


def grids_of(batch: Batch, trained: Trained) -> Grids:
    """The grids of a batch of one prepared sample."""
    given: Any = batch
    spacing, shape, box = (given[name][0] for name in ("read_spacing", "read_shape", "box"))
    spacing = [spacing[i] for i in trained.manager.transpose_forward]
    current = list(trained.settings.spacing)
    return Grids([spacing[0], *current] if len(current) < len(box) else current, spacing, shape, box)


def restored(volume: Tensor, batch: Batch, trained: Trained, outside: Tensor) -> Tensor:
    """Bring an answer, or an image, on the prepared grid back to the grid of the file.

    Args:
        volume: ``(K, *spatial)``.
        batch: A batch of one prepared sample.
        trained: The model that has prepared it.
        outside: What is put where nnU-Net has cropped, ``(K,)``.

    Returns:
        ``(K, *source_shape)``, of the type of ``volume``, on the CPU.
    """
    current, spacing, shape, box = grids_of(batch, trained)
    inner = [b - a for a, b in box]
    array = theirs(volume, trained).cpu().numpy()
    resample, inside = trained.settings.resampling_fn_probabilities, tuple(slice(a, b) for a, b in box)
    channels = (torch.as_tensor(resample(one[None], inner, current, spacing))[0] for one in array)
    with explaining(f"nnU-Net cannot resample its answer for {batch['path'][0]}", "Take another model.", *MALFORMED):
        first = next(channels)
        whole = outside.cpu().to(first.dtype).view(-1, 1, 1, 1).repeat(1, *shape)
        for found, channel in zip(whole, chain([first], channels), strict=True):  # in float64, one at a time
            found[inside] = channel
    read = whole.permute(0, *(i + 1 for i in trained.manager.transpose_backward))
    return torch.from_numpy(as_stored(read.numpy(), batch["source_affine"][0], trained))


def as_stored(read: NDArray[Any], affine: Matrix, trained: Trained) -> NDArray[Any]:
    """Give volumes ``(K, …)`` with the axes that nnU-Net has read those of their file, whose ``affine`` is given."""
    turned = read.transpose(0, 3, 2, 1)
    if reorients(trained):
        back = ornt_transform(axcodes2ornt("RAS"), io_orientation(np.array(affine)))
        turned = np.stack([apply_orientation(volume, back) for volume in turned])
    return np.ascontiguousarray(turned)


def _as_read(label: NDArray[Any], affine: Matrix, trained: Trained) -> NDArray[Any]:
    """A label map as nnU-Net would have read it."""
    whole = apply_orientation(label[0], io_orientation(np.array(affine))) if reorients(trained) else label[0]
    return np.ascontiguousarray(whole.transpose(2, 1, 0)[None]).astype(np.int16)


def reorients(trained: Trained) -> bool:
    """Whether nnU-Net turns what it reads to RAS."""
    return bool(trained.plans["image_reader_writer"] == "NibabelIOWithReorient")


def _ours(volume: Tensor, trained: Trained) -> Tensor:
    return volume.movedim(1, -1).contiguous() if len(trained.patch_size) == 2 else volume


def theirs(volume: Tensor, trained: Trained) -> Tensor:
    """A prepared volume ``(C, *spatial)`` with the axes of nnU-Net's array."""
    return volume.movedim(-1, 1).contiguous() if len(trained.patch_size) == 2 else volume
