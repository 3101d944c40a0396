"""Training samples that are augmented as a trainer of nnU-Net does it, by its own transforms."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from lit_continual.data.patches import PatchDataset
from lit_continual.files.whole_files import in_one_line
from lit_continual.interop.nnunet.network import trainer_of
from lit_continual.interop.nnunet.trained import MALFORMED, Trained, nnunetv2


class NNUNetPatches(PatchDataset):
    """Slices or random patches that go through the training transforms of the trainer of a model.

    A patch is cut out larger than it is wanted, as nnU-Net does it, so that a rotated one has no empty corners. As in
    :class:`~lit_continual.data.patches.PatchDataset`, the random state of a sample follows from seed, epoch and index.

    Args:
        volumes: As :class:`~lit_continual.data.patches.PatchDataset` takes them; ``outside`` ``(1, H, W, D)`` of a
            volume says where noise is taken away again, where the plans normalise within a mask.
        patch_size: In voxels.
        trained: The model.
        patches_per_volume: How often a volume is drawn from in an epoch; 3D only.
        seed: Seed of all randomness.

    Raises:
        ValueError: If the trainer is not there, or builds no transforms.
    """

    def __init__(
        self,
        volumes: Sequence[Mapping[str, Any]],
        patch_size: Sequence[int],
        trained: Trained,
        patches_per_volume: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(volumes, patch_size, patches_per_volume=patches_per_volume, seed=seed)
        self.transforms, self.cut_size = training_transforms(trained, patch_size)

    @override
    def _augmented(
        self, volume: Mapping[str, Any], layers: list[Tensor], window: tuple[Any, ...], random: np.random.Generator
    ) -> tuple[Sequence[Tensor], Tensor]:
        outside = volume.get("outside")
        label = volume["label"].short()
        label = label if outside is None else label.masked_fill(outside, -1)
        image, *targets = [self._cut(layer, window, 0) for layer in layers]
        sample: dict[str, Any] = {"image": image, "segmentation": self._cut(label, window, -1)}
        if targets:
            sample["regression_target"] = torch.cat(targets)
        with seeded(int(random.integers(2**32))):
            sample = self.transforms(**sample)
        changed = sample.get("regression_target", torch.empty(0))
        return [sample["image"], *torch.split(changed, [len(target) for target in targets])], sample["segmentation"]

    def _cut(self, layer: Tensor, window: tuple[Any, ...], beyond: float) -> Tensor:
        """Cut ``cut_size`` voxels around a window, with ``beyond`` where the volume ends."""
        spatial = len(self.patch_size)
        places = zip(window[1 : 1 + spatial], self.cut_size, layer.shape[1:], strict=False)
        begins = [(place.start - (cut - place.stop + place.start) // 2, cut, size) for place, cut, size in places]
        inner = [slice(max(0, begin), min(begin + cut, size)) for begin, cut, size in begins]
        missing = [(max(0, -begin), max(0, begin + cut - size)) for begin, cut, size in begins]
        part = layer[(slice(None), *inner, *window[1 + spatial :])]
        part = part.float() if part.is_floating_point() else part
        return pad(part, [width for pair in reversed(missing) for width in pair], value=beyond)


def training_transforms(trained: Trained, patch_size: Sequence[int]) -> tuple[Callable[..., Any], tuple[int, ...]]:
    """Build the transforms that the trainer of a model augments with, without its deep supervision.

    Args:
        trained: The model.
        patch_size: In voxels.

    Returns:
        The transforms, and the size of what they take.

    Raises:
        ValueError: If the trainer is not there, or builds none.
    """
    kind = trainer_of(trained.trainer)
    handler = nnunetv2().utilities.plans_handling.plans_handler
    settings = handler.ConfigurationManager({**trained.settings.configuration, "patch_size": list(patch_size)})
    trainer = kind.__new__(kind)  # its constructor makes folders, and asks for those of the first training
    trainer.configuration_manager, trainer.local_rank = settings, 1  # which writes no log file
    labels = list(range(1, len(trained.classes) + 1))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            rotation, flat, cut, mirrored = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            transforms = kind.get_training_transforms(
                settings.patch_size, rotation, None, mirrored, flat, settings.use_mask_for_norm, False, labels
            )
    except MALFORMED as error:
        raise ValueError(
            f"The trainer {trained.trainer} builds no augmentation ({in_one_line(error)}). Leave out"
            " `nnunet_augmentation`, or give `augmentation`."
        ) from error
    for step in transforms.transforms:
        part = getattr(step, "transform", step)
        if hasattr(part, "benchmark"):  # by which the time that a blur takes would choose how it is computed
            part.benchmark = False
    return transforms, tuple(int(size) for size in cut)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from the random states of numpy and torch, as nnU-Net does, from a seed; they are left as they were."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
