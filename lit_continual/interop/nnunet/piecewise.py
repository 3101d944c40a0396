"""A prediction of nnU-Net piece by piece, with the bits of its own code, which holds all logits as a whole."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from torch import Tensor

from lit_continual.data.batch import Batch, Matrix
from lit_continual.interop.nnunet.preparation import grids_of, reorients
from lit_continual.interop.nnunet.trained import Trained, nnunetv2
from lit_continual.segmentation.inference import Inference
from lit_continual.segmentation.source_grid import Axis, taken
from lit_continual.windows.stitching import Layout, laid_blocks
from lit_continual.windows.window_sums import Block

LINEAR = {"is_seg": False, "order": 1, "order_z": 0}


def blocks(
    forward: Callable[[Tensor], Tensor],
    volume: Tensor,
    trained: Trained,
    window: Sequence[int],
    mirror: bool,
    inference: Inference,
    halo: int,
) -> Iterator[Block]:
    """Map a volume to blocks of what :func:`~lit_continual.interop.nnunet.network.slide` makes of it, bit for bit.

    Sums are in half precision, and windows follow one another as in nnU-Net, along the last axis first.

    Args:
        forward: See :func:`~lit_continual.interop.nnunet.network.slide`, as are the next five.
        volume: Prepared, ``(C, Z, Y, X)``.
        trained: The model.
        window: Its size in voxels.
        mirror: Whether to average over the mirrored windows too.
        inference: How to go over the volume.
        halo: See :func:`~lit_continual.windows.stitching.blocks`.

    Raises:
        ValueError: If an answer is too large for half precision.
    """
    sliding = nnunetv2().inference.sliding_window_prediction
    device = torch.device("cpu") if inference.stitch_device == "cpu" else volume.device
    weight = torch.ones(*window, dtype=torch.half, device=device)
    if inference.mode == "gaussian":
        weight = sliding.compute_gaussian(tuple(window), sigma_scale=1 / 8, value_scaling_factor=10, device=device)
    flat = len(window) < volume.ndim - 1
    weight = weight[None] if flat else weight

    def starts(size: int, edge: int) -> list[int]:
        if flat and edge == 1:
            return list(range(size))
        found: list[int] = sliding.compute_steps_for_sliding_window([size], [edge], 1 - inference.overlap)[0]
        return found

    layout = Layout(starts, weight, (0, 1, 2), torch.half, torch.half)
    axes = trained.mirror_axes if mirror else None
    ask = partial(_mirrored, forward, axes) if axes else forward
    for block in laid_blocks(ask, volume, layout, halo=halo, slices=0 if flat else None):
        if bool(block.values.isinf().any()):
            raise ValueError(
                "The answers of the model are too large for half precision, in which nnU-Net adds them up, so it"
                " cannot predict this image either. Take another model."
            )
        yield block


def _mirrored(forward: Callable[[Tensor], Tensor], axes: Sequence[int], windows: Tensor) -> Tensor:
    """The mean over windows that are mirrored along any of the axes, in nnU-Net's order."""
    some = [[axis + 2 for axis in which] for n in range(len(axes)) for which in combinations(axes, n + 1)]
    found = forward(windows)
    for which in some:
        found += forward(windows.flip(which)).flip(which)
    return found.div_(len(some) + 1)


def axes_to_file(batch: Batch, trained: Trained, shape: Sequence[int]) -> list[Axis] | None:
    """Find where a file's voxels lie along each axis of the prepared image, as nnU-Net's resampling rounds it.

    Args:
        batch: A batch of one prepared sample.
        trained: The model that has prepared it.
        shape: Voxels of the prepared image, ``(Z, Y, X)``.

    Returns:
        Three axes, where the places of voxels are not numbers that nnU-Net has cropped; ``None`` where the plans do not
        resample probabilities linearly by nnU-Net's default function.
    """
    known = trained.settings.configuration
    options = dict(known["resampling_fn_probabilities_kwargs"])
    resampling = nnunetv2().preprocessing.resampling.default_resampling
    find = resampling.determine_do_sep_z_and_axis
    separate = {"separate_z_anisotropy_threshold": options.pop("separate_z_anisotropy_threshold", 3)}
    force = options.pop("force_separate_z", False)
    if known["resampling_fn_probabilities"] != "resample_data_or_seg_to_shape" or {"order_z": 0, **options} != LINEAR:
        return None
    grids = grids_of(batch, trained)
    inner = [b - a for a, b in grids.box]
    nearest = None if inner == list(shape) else find(force, grids.current, grids.read, **separate)[1]
    found = []
    for axis, (source, turned) in enumerate(_file_axes(trained, batch["source_affine"][0])):
        places = torch.full((grids.shape[axis],), torch.nan, dtype=torch.float64)
        places[slice(*grids.box[axis])] = _places(shape[axis], inner[axis], axis == nearest)
        found.append(Axis(source, places.flip(0) if turned else places, shape[axis]))
    return found


def _places(count: int, size: int, nearest: bool) -> Tensor:
    """Where each of ``size`` voxels lies among ``count``, by the steps of SciPy's ``zoom``; some lie beyond these."""
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * (count / size) - 0.5
    return (places + 0.5).floor().clamp(0, count - 1) if nearest else places


def _file_axes(trained: Trained, affine: Matrix) -> list[tuple[int, bool]]:
    """The axis of the file for each of the plans, and whether it is the other way around."""
    stored = [(axis, 1.0) for axis in range(3)]
    if reorients(trained):
        back = ornt_transform(axcodes2ornt("RAS"), io_orientation(np.array(affine)))
        stored = [(int(axis), float(way)) for axis, way in back]
    found = [stored[2 - axis] for axis in trained.manager.transpose_forward]
    return [(axis, way < 0) for axis, way in found]


def interpolated(values: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Map ``(K, Z, Y, X)`` to the values at places along each axis, with the bits of nnU-Net's resampling on the CPU.

    That is SciPy's ``zoom`` of the first order in float64: of each corner of a cell, the product of its value and its
    weight along each axis in turn, and the sum of these, the last axis first; rounded to half precision.
    """
    found = torch.empty(len(values), *map(len, places), dtype=torch.half)  # `stack` takes no half under bf16-mixed
    for channel, place in zip(values, found, strict=True):
        place.copy_(_channel(channel.cpu(), places))
    return found


def _channel(values: Tensor, places: Sequence[Tensor]) -> Tensor:
    corners = [values.double()]
    for axis, place in enumerate(places):
        lower, last = place.floor(), values.shape[axis] - 1
        if bool((lower == place).all()):
            corners = [taken(corner, axis, lower) for corner in corners]
            continue
        first = (1 - (place - lower)).view(-1, *[1] * (2 - axis))
        sides = ((lower.clamp_min(0), first), ((lower + 1).clamp_max(last), 1 - first))
        corners = [taken(corner, axis, at) * weight for corner in corners for at, weight in sides]
    found: Any = sum(corners[1:], corners[0])
    return torch.from_numpy(found.numpy().astype(np.float16))  # torch would round to float32 first
