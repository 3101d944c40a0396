"""Networks that MONAI does not have."""

from lit_continual.networks.dncnn import DnCNN
from lit_continual.networks.producers import find_producers
from lit_continual.networks.redundancy import (
    drop_kernels,
    free_share,
    kernel_scores,
    learnt_values,
    threshold_for_share,
)

__all__ = [
    "DnCNN",
    "drop_kernels",
    "find_producers",
    "free_share",
    "kernel_scores",
    "learnt_values",
    "threshold_for_share",
]
