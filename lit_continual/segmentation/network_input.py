"""Whether a network takes what the data hold."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_continual.data.case_lists.headers import channels_of, require_one_place, shape_of
from lit_continual.files.whole_files import in_one_line
from lit_continual.segmentation.class_names import require_new_names
from lit_continual.segmentation.class_ratio_cross_entropy import ClassRatioCrossEntropy
from lit_continual.windows.sizes import require_near_size


def channels_taken(network: nn.Module) -> int | None:
    """Return the channels of the images that a network takes, by its first convolution; ``None`` without one."""
    layers = (layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Conv3d)))
    return next((layer.in_channels for layer in layers), None)


def require_channels(network: nn.Module, image: Tensor, path: Any) -> None:
    """Check that an image ``(C, *spatial)`` has the channels that a network takes.

    Raises:
        ValueError: If it has not.
    """
    taken = channels_taken(network)
    if taken not in (None, len(image)):
        raise ValueError(_other_channels(path, len(image), taken))


@contextlib.contextmanager
def named_failure(images: Tensor, paths: Sequence[Any]) -> Iterator[None]:
    """Name the image that a network fails on.

    Raises:
        ValueError: In place of what a network says of a size that it does not take, or of memory.
    """
    try:
        yield
    except (RuntimeError, IndexError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"The network fails on {paths[0]} of {' x '.join(map(str, images.shape[2:]))} voxels"
            f" ({in_one_line(error)}). Give a `roi_size` that it takes, or another image."
        ) from error


def require_size(answer: Tensor, windows: Tensor) -> None:
    """Check that a network answers for each voxel of the windows that it was given.

    Raises:
        ValueError: If it does not.
    """
    if answer.shape[2:] != windows.shape[2:]:
        sizes = (" x ".join(map(str, one.shape[2:])) for one in (answer, windows))
        raise ValueError(f"it returns {next(sizes)} voxels of {next(sizes)}")


def require_finite(logits: Tensor, batch: Any) -> None:
    """Check that logits are numbers, of which there is a largest.

    Raises:
        ValueError: If some are nan or infinite.
    """
    ends = torch.stack([*logits.aminmax()]) if logits.numel() else logits  # one pass; of a nan both are nan
    if not bool(ends.isfinite().all()):
        raise ValueError(
            f"The answer of the network to {batch.get('path', ['an image'])[0]} is nan or infinite: its weights, or the"
            " values of the image, are too large. Use another checkpoint, or look at the image."
        )


def rehearse(module: Any, data: Any) -> None:
    """Send one patch of each data set through a copy of a segmenter that computes nothing.

    Args:
        module: The segmenter.
        data: A ``SegmentationDataModule``, or a module of several as ``tasks``; of others nothing is checked.

    Raises:
        ValueError: If a class has no name of its own, an image cannot be opened or has other channels than the network
            takes, the network fails on a patch, or the loss on the answer to one.
    """
    for part in getattr(data, "tasks", {"": data}).values():
        if not hasattr(part, "cases") or not hasattr(part, "patch_size"):
            continue
        if not part.classes:
            raise ValueError("The data reveal no class. Name what is learnt under `classes`, such as `{liver: 1}`.")
        require_new_names(list(part.classes), [])
        cases = [case for split in part.cases.values() for case in split]
        channels, taken = channels_of(cases), channels_taken(module.body)
        require_one_place(cases)
        if channels is None:
            continue
        if taken not in (None, channels):
            raise ValueError(_other_channels(cases[0].images[0], channels, taken))
        if part.preprocessing.spacing is None and (shape := shape_of(cases[0].images[0])):
            require_near_size(part.patch_size, sorted(shape[:3], reverse=True), cases[0].images[0])
        for name, size in {"patch_size": part.patch_size, "roi_size": module.hparams["roi_size"]}.items():
            if size is not None:
                _rehearse(module, name, [channels, *size], list(part.classes))
        _require_loss(module, part)
        single = _batch_of_one(part)
        if single and (reason := _failure(module, [1, channels, *part.patch_size], part.classes)):
            raise ValueError(f"The network fails on the {single} ({reason}). Change `batch_size` or `norm`.")


def _rehearse(module: Any, name: str, shape: Sequence[int], classes: Sequence[str]) -> None:
    channels, *size = shape
    if min(size) < 1 or (len(size) != module.spatial_dims and channels_taken(module.body) is not None):
        raise ValueError(f"`{name}` {size} is not for a network of {module.spatial_dims} dimensions. Correct it.")
    if reason := _failure(module, [2, *shape], classes):
        raise ValueError(
            f"The network fails on {channels} channels of {' x '.join(map(str, size))} voxels ({reason}). Correct"
            f" `{name}` or the arguments of `network`."
        )


def _require_loss(module: Any, data: Any) -> None:
    """Ask a copy of a segmenter for the loss of a small batch of noise."""
    if isinstance(module.loss, ClassRatioCrossEntropy):  # which has to see annotations first
        return
    classes, size = list(data.classes), [min(16, voxels) for voxels in data.patch_size]
    with torch.random.fork_rng(devices=[]):
        asked = copy.deepcopy(module)
        asked.grow(classes)
        channels = 1 + max(channel for head in asked.head_channels for channel in head)
        logits = torch.randn(2, channels, *size, requires_grad=True)
        label = torch.randint(len(classes) + 1, (2, 1, *size))
        try:
            loss = asked.batch_loss(logits, {"image": logits, "label": label, "classes": [tuple(classes)] * 2})
            reason = "" if loss.numel() == 1 else f"it returns {' x '.join(map(str, loss.shape))} values"
        except Exception as error:
            reason = in_one_line(error)
    if reason:
        raise ValueError(
            f"`loss` {type(module.loss).__name__} fails on {' x '.join(map(str, logits.shape))} logits and"
            f" {' x '.join(map(str, label.shape))} label values ({reason}). Correct it; one of MONAI needs"
            " `softmax: true` and `to_onehot_y: true`."
        )


def _batch_of_one(data: Any) -> str:
    """Which batch of an epoch has one sample only, as far as that is known before any image is read."""
    if data.batch_size == 1:
        return "batches of one sample"
    patches = len(data.cases["train"]) * data.patches_per_volume if len(data.patch_size) == 3 else None
    known = [count for count in (data.samples_per_epoch, patches) if count is not None]
    samples = min(known) if known else 0
    return f"last batch, of one sample of {samples}" if samples % data.batch_size == 1 else ""


def _other_channels(path: Any, found: int, taken: int | None) -> str:
    return (
        f"{path} has {found} channels, and the network takes {taken}. Give `in_channels: {found}` to the network and"
        " train anew, or other images; files NAME_0000, NAME_0001, … are the channels of one image."
    )


def _failure(module: Any, shape: Sequence[int], classes: Sequence[str]) -> str:
    """Why a module fails on images of a shape; nothing where it does not, or cannot be asked on no device."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            asked = copy.deepcopy(module)
            if not asked.classes:
                asked.grow(classes)
            asked, given = asked.to("meta"), []
            asked.body.register_forward_hook(lambda body, image, features: given.append(features))
        except Exception:
            return ""
        try:
            found = tuple(asked(torch.zeros(*shape, device="meta")).shape[2:])
        except NotImplementedError:
            return ""
        except Exception as error:
            if given and not isinstance(given[0], Tensor):
                return f"it returns a {type(given[0]).__name__}, and one tensor is needed, as without deep supervision"
            if given and given[0].ndim != len(shape):
                return (
                    f"it returns {given[0].ndim} dimensions, and {len(shape)} are needed, as without deep supervision"
                )
            return "" if "meta" in str(error) else in_one_line(error)  # which it may not know
    return "" if found == tuple(shape[2:]) else f"it returns {' x '.join(map(str, found))}"
