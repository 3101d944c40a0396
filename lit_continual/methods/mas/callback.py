"""MAS: hold each weight by how much the answers depend on it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from lit_continual.methods.bases.importance.measured_importance import MeasuredImportance, ask_logits
from lit_continual.methods.mas.importance import memory_aware_importance


class MAS(MeasuredImportance):
    r"""Hold the weights that the network's answers depend on, without labels, on any module.

    .. math:: L + \lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2, \qquad
        \Omega_i = \frac{1}{N} \sum_n \left| \frac{\partial \lVert f(x_n) \rVert_2^2}{\partial \theta_i} \right|

    :math:`\Omega` is measured when a fit ends, on its training samples one by one, in evaluation mode and full
    precision, with the norm over channels and the mean over voxels; see
    :func:`~lit_continual.functional.memory_aware_importance`. The penalty acts as that of
    :class:`~lit_continual.callbacks.L2SP` does. Under manual optimization give ``logits``.

    Args:
        strength: :math:`\lambda`, not negative.
        decay: :math:`\gamma` in :math:`\Omega \leftarrow \gamma\Omega + \Omega_{new}`, in [0, 1]; 1 is the sum.
        samples: How many training samples to measure; ``None`` for all.
        logits: How to get outputs ``(B, C, *spatial)``, before any softmax: called with the module and a batch.
            ``None`` takes what ``forward`` returned in ``training_step``, or what the step returns as
            ``outputs["logits"]``.
        parameters: Which to hold: globs for a run of components of the dotted name, such as ``encoder``.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If an argument is out of range, or, when a fit starts, if a held parameter is gone or has another
            shape and has not grown.
        MisconfigurationException: In the first batch, if a sample cannot be measured; if gradients would still be
            scaled when they are edited; under strategies that shard the module or drop its processes.

    Logs ``train/<name>``, the penalty, at every optimizer step from the second fit on.

    References:
        Aljundi et al. Memory Aware Synapses. ECCV 2018, eq. 3 and 4.

    Example:
        >>> callback = MAS(strength=1.0)
    """

    def __init__(
        self,
        strength: float = 1.0,
        decay: float = 1.0,
        samples: int | None = None,
        logits: Callable[..., Tensor] | None = None,
        parameters: str | Sequence[str] = "*",
        name: str = "mas",
    ) -> None:
        super().__init__(strength, decay, samples, logits, parameters, name)

    @override
    def measure(
        self, module: LightningModule, batch: Any, parameters: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor] | None:
        return memory_aware_importance(ask_logits(module, batch, self.logits), parameters)
