"""SI: hold each weight by what it has done for the loss."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.anchor import snapshot
from lit_continual.methods.bases.fit.precision import wide
from lit_continual.methods.bases.importance.path_importance import Named, PathImportance
from lit_continual.methods.si.importance import synaptic_importance


class SI(PathImportance):
    r"""Hold the weights whose steps have made the loss smaller: Synaptic Intelligence, on any LightningModule.

    .. math:: L + c \sum_i \Omega_i (\theta_i - \theta^*_i)^2, \qquad
        \Omega_i \leftarrow \Omega_i + \frac{\max(0, -\sum_t g_i \Delta\theta_i)}{(\theta_i - \theta_i^{start})^2 + \xi}

    :math:`g` is the gradient of the loss of an optimizer step without this penalty, accumulated, reduced and unscaled;
    :math:`\Delta\theta` is what the step has really moved, whatever the optimizer, clipping and weight decay made of
    it.
    Importances cost no pass over the data, and no labels; a step costs five passes over the weights. Of penalties of
    other callbacks those that stand earlier in the Trainer's list are part of :math:`g`: put ``SI`` first.

    Args:
        strength: :math:`c`, not negative.
        damping: :math:`\xi`, positive; bounds the importance of what hardly moved.
        decay: What older :math:`\Omega` are multiplied by when a fit ends, in [0, 1]; 1 in the paper.
        parameters: Which to hold: globs for a run of components of the dotted name, such as ``encoder``.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If an argument is out of range, or, when a fit starts, if a held parameter is gone or has another
            shape and has not grown.
        MisconfigurationException: If gradients would still be scaled when they are edited, and under strategies that
            shard the module or drop its processes.

    Logs ``train/<name>``, the penalty, at every optimizer step from the second fit on.

    References:
        Zenke, Poole and Ganguli. Continual Learning Through Synaptic Intelligence. ICML 2017, eq. 3 to 5.

    Example:
        >>> callback = SI(strength=0.1)
    """

    def __init__(
        self,
        strength: float = 0.1,
        damping: float = 0.1,
        decay: float = 1.0,
        parameters: str | Sequence[str] = "*",
        name: str = "si",
    ) -> None:
        super().__init__(strength, decay, parameters, name)
        if damping <= 0:
            raise ValueError(f"`damping` must be positive, got {damping}.")
        self.damping = damping

    @override
    def begin(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Named]:
        zeros = {name: torch.zeros_like(p, dtype=wide(p)) for name, p in parameters.items()}
        return {"work": zeros, "start": snapshot(parameters)}

    @override
    def gather(self, names: list[str], gradients: list[Tensor], work: list[Tensor]) -> None:
        torch._foreach_add_([self.sums["work"][name] for name in names], work)

    @override
    def importances(self, parameters: Mapping[str, nn.Parameter]) -> Named:
        work, start = self.sums["work"], self.sums["start"]
        self.sums = {}
        moved = {name: (p - start[name]).to(work[name]) for name, p in parameters.items()}
        return {name: synaptic_importance(work[name], moved[name], self.damping) for name in moved}
