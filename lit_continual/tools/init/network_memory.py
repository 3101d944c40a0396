"""How much memory a training step takes, counted on a network that computes nothing."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from lit_continual.networks import NETWORKS
from lit_continual.runs.checkpoints.spec import Spec

OF_DEVICE = 0.6e9  # bytes that CUDA and cuDNN take before anything is computed
OF_COPIES = 3  # of the largest feature map: its gradient, and what a teacher's pass or cuDNN holds at a time
RESERVE = 1.15  # pieces that the allocator cannot use


def step_bytes(network: Spec, features: int, classes: int, channels: int, patch: Sequence[int], batch: int) -> float:
    """Estimate the memory of one training step with Adam and a teacher of the same network, in bytes.

    What backpropagation keeps is counted sample by sample, ``batch * (kept + 3 * largest)``; 20 bytes a parameter are
    weight, gradient, two moments of Adam, and the teacher's weight. In float32; mixed precision takes about half.

    Args:
        network: The body, as the ``Segmenter`` takes it.
        features: Channels of its output.
        classes: Of all heads.
        channels: Of the image.
        patch: Window in voxels.
        batch: Samples.
    """
    kept, largest, parameters = _counted(json.dumps(network), features, classes, channels, tuple(patch))
    return OF_DEVICE + RESERVE * (20 * parameters + batch * (kept + OF_COPIES * largest))


@cache
def _counted(network: str, features: int, classes: int, channels: int, patch: tuple[int, ...]) -> tuple[int, int, int]:
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        body = NETWORKS.build(json.loads(network), out_channels=features)
        head = (nn.Conv2d if len(patch) == 2 else nn.Conv3d)(features, classes + 1, 1)
        image = torch.zeros(1, channels, *patch)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            head(body(image)).log_softmax(1)
    weights = {p.untyped_storage()._cdata for p in (*body.parameters(), *head.parameters())}
    sizes = [storage.nbytes() for key, storage in kept.items() if key not in weights]
    parameters = sum(p.numel() for p in (*body.parameters(), *head.parameters()))
    return sum(sizes), max(sizes), parameters
