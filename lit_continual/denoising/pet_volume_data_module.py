"""Real PET volumes as phantoms that can be scanned again, at any count level."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from typing_extensions import override

from lit_continual.data.case_lists.cases import Case, CaseList, read_cases
from lit_continual.data.case_lists.splits import Split, split_cases
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.data.volumes import load_case, load_label
from lit_continual.denoising.pet_study import WATER, PetPhantom, Study, kept, simulate_study
from lit_continual.denoising.pet_study_data_module import PetStudyDataModule

#: SUV above which a voxel belongs to the body.
_BODY = 0.1


def pet_volume(case: Case, listed: CaseList, size: int = 64, depth: int = 24) -> PetPhantom:
    """Take a patient's PET volume for the true activity of a phantom, with water where there is activity.

    Slices along the last axis of the file are laid in the middle of a square of ``size`` pixels, cut or padded with 0,
    and ``depth`` of them are kept: those around the labelled voxels, or around the middle without a label.

    Args:
        case: Image in SUV; each value of its label becomes a mask.
        listed: Where the case stands; it names the label values, and ``gtv`` counts as ``lesion``.
        size: Pixels a side of a slice.
        depth: Slices at most.

    Raises:
        ValueError: If the image cannot be read, is negative, or has pixels that are not square.
    """
    image = load_case(case, Preprocessing(orientation=None, normalise=()))
    activity, (height, width, _) = image["image"][0].numpy(), image["spacing"]
    if abs(height - width) > 1e-2 * width:
        raise ValueError(f"{case.images[0]} has pixels of {height:g} x {width:g} mm. Resample it to square pixels.")
    if activity.min() < 0:
        raise ValueError(f"{case.images[0]} has a minimum of {activity.min():g} SUV. Clip what is negative.")
    masks = {}
    if case.label is not None:
        names = {name: value for name, value in listed.labels.items() if value}
        label = load_label(case, names, listed, image)[0].numpy()
        masks = {"lesion" if name == "gtv" else name: label == k for k, name in enumerate(names, start=1)}
    marked = np.any(list(masks.values()), axis=0) if masks else np.ones(activity.shape, bool)
    middle = int(np.median(np.nonzero(marked.any((0, 1)))[0])) if marked.any() else activity.shape[2] // 2
    first = int(np.clip(middle - depth // 2, 0, max(activity.shape[2] - depth, 0)))

    def laid(volume: NDArray[np.generic]) -> NDArray[np.generic]:
        slices = np.moveaxis(volume[..., first : first + depth], 2, 0)
        for axis in (1, 2):
            missing = size - slices.shape[axis]
            before = abs(missing) // 2
            if missing < 0:
                slices = slices.take(range(before, before + size), axis)
            else:
                pad = [(0, 0)] * 3
                pad[axis] = (before, missing - before)
                slices = np.pad(slices, pad)
        return slices

    shown = laid(activity).astype(np.float32)
    body = np.stack([ndimage.binary_fill_holes(plane > _BODY) for plane in shown])
    attenuation = np.where(body, WATER, 0.0).astype(np.float32)
    return PetPhantom(shown, attenuation, {name: laid(mask).astype(bool) for name, mask in masks.items()}, width)


class PetVolumeDataModule(PetStudyDataModule):
    """Real volumes in SUV, taken for the truth, scanned and reconstructed at chosen count levels.

    Args:
        dataset: A Decathlon ``dataset.json``, a CSV list or a folder; see ``read_cases``. Labels become regions, and
            ``gtv`` is called ``lesion``.
        split: Which patients train, validate and test.
        **options: Those of :class:`~lit_continual.data.PetStudyDataModule`.

    Raises:
        ValueError: As ``read_cases``, ``split_cases`` and ``pet_volume``.
    """

    def __init__(self, dataset: str, split: Split = Split(), **options: Any) -> None:
        super().__init__(**options)
        self.dataset, self.split = dataset, split

    @cached_property
    def listed(self) -> CaseList:
        """The data set's list of cases."""
        return read_cases(self.dataset)

    @cached_property
    @override
    def patients(self) -> dict[str, list[Case]]:  # type: ignore[override]  # mypy takes it for read-only
        return split_cases(self.listed.cases, self.split, self.listed.source)

    @cached_property
    @override
    def regions(self) -> tuple[str, ...]:  # type: ignore[override]  # the same
        names = [name for name, value in self.listed.labels.items() if value]
        return tuple("lesion" if name == "gtv" else name for name in names)

    @override
    def study(self, case: Case, seconds: Sequence[int], realisations: int) -> Study:
        phantom = pet_volume(case, self.listed, self.size, self.depth)
        options = (self.version, seconds, realisations, self.each)
        seed, regions = _digests(phantom)
        name = f"{seed}-{regions}"
        return kept(self.cache, name, options, lambda: simulate_study(phantom, [int(seed, 16)], *options))


def _digests(phantom: PetPhantom) -> tuple[str, str]:
    """What distinguishes one volume from another, the seed of its noise; and one with other masks or pixels."""
    activity = hashlib.blake2b(np.ascontiguousarray(phantom.activity).tobytes(), digest_size=4)
    regions = hashlib.blake2b(f"{phantom.pixel!r}".encode(), digest_size=4)
    for name, mask in sorted(phantom.masks.items()):
        regions.update(name.encode() + np.packbits(mask).tobytes())
    return activity.hexdigest(), regions.hexdigest()
