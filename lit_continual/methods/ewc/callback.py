"""EWC: hold each weight by its Fisher information."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from lit_continual.methods.bases.fit.training_step import ask_step, loss_of
from lit_continual.methods.bases.importance.measured_importance import MeasuredImportance, ask_logits
from lit_continual.methods.bases.importance.sample_gradients import sample_gradients
from lit_continual.methods.bases.old_network.logits import heads_of
from lit_continual.methods.ewc.fisher import fisher_information


class EWC(MeasuredImportance):
    r"""Hold the weights that matter to what was learnt, by the diagonal of the Fisher information, on any module.

    .. math:: L + \frac{\lambda}{2} \sum_i F_i (\theta_i - \theta^*_i)^2, \qquad
        F_i = \frac{1}{N} \sum_n \left(\frac{\partial \log p(y_n \mid x_n)}{\partial \theta_i}\right)^2

    :math:`F` is measured when a fit ends, on its training samples one by one, in evaluation mode and full precision;
    neither batch size, scaling, other terms nor the number of processes have a part in it. A parameter without a
    gradient has :math:`F = 0`. The penalty acts as that of :class:`~lit_continual.callbacks.L2SP` does.

    :math:`\log p` is a mean over voxels, so that :math:`\lambda` must be larger by far than where it is a sum, and is
    not comparable between programs.

    Args:
        strength: :math:`\lambda`, not negative.
        labels: What :math:`y` is. ``given``: the module's own training loss takes the place of :math:`-\log p`, which
            serves every module that has one, also a Dice loss or a regression. ``sampled``: drawn from the network's
            own answers, at one gradient a sample. ``expected``: the expectation over them, at one gradient a class;
            see :func:`~lit_continual.functional.fisher_information`. The latter two need logits.
        mode: ``separate`` keeps a penalty for each fit, with its own :math:`\theta^*`; their sum is one penalty again,
            so that it costs no more. ``online`` has one, with the last :math:`\theta^*`.
        decay: :math:`\gamma`, by which older :math:`F` are multiplied when a fit ends, in [0, 1].
        samples: How many training samples to measure; ``None`` for all.
        heads: Channels of each softmax head, or ``"sigmoid"`` for independent classes. ``None`` takes
            ``pl_module.head_channels`` where the module has them, else one softmax over all channels.
        logits: How to get ``(B, C, *spatial)`` logits: called with the module and a batch. ``None`` takes what
            ``forward`` returned in ``training_step``, or what the step returns as ``outputs["logits"]``.
        parameters: Which to hold: globs for a run of components of the dotted name, such as ``encoder``.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If an argument is out of range, or, when a fit starts, if a held parameter is gone or has another
            shape and has not grown.
        MisconfigurationException: In the first batch, if a sample cannot be measured; if gradients would still be
            scaled when they are edited; under strategies that shard the module or drop its processes.

    Logs ``train/<name>``, the penalty, at every optimizer step from the second fit on.

    References:
        Kirkpatrick et al. Overcoming catastrophic forgetting in neural networks. PNAS 2017, eq. 3.
        Schwarz et al. Progress & Compress. ICML 2018, eq. 9, for ``online``.

    Example:
        >>> callback = EWC(strength=1e3, labels="sampled")
    """

    factor = 0.5

    def __init__(
        self,
        strength: float = 1.0,
        labels: Literal["given", "sampled", "expected"] = "given",
        mode: Literal["separate", "online"] = "separate",
        decay: float = 1.0,
        samples: int | None = None,
        heads: list[list[int]] | Literal["sigmoid"] | None = None,
        logits: Callable[..., Tensor] | None = None,
        parameters: str | Sequence[str] = "*",
        name: str = "ewc",
    ) -> None:
        super().__init__(strength, decay, samples, logits, parameters, name)
        if labels not in ("given", "sampled", "expected"):
            raise ValueError(f"`labels` must be 'given', 'sampled' or 'expected', got {labels!r}.")
        if mode not in ("separate", "online"):
            raise ValueError(f"`mode` must be 'separate' or 'online', got {mode!r}.")
        self.labels, self.heads = labels, heads
        self.separate, self.asks_step = mode == "separate", labels == "given"

    @override
    def measure(
        self, module: LightningModule, batch: Any, parameters: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor] | None:
        if self.labels == "given":
            loss = loss_of(ask_step(module, batch))
            if loss is None:
                return None
            (gradient,) = sample_gradients(loss.reshape(1), list(parameters.values()))
            return dict(zip(parameters, torch._foreach_mul(gradient, gradient), strict=True))
        logits = ask_logits(module, batch, self.logits)
        heads = heads_of(self.heads, module, logits, self.logits is None)
        return fisher_information(logits, parameters, self.labels, "sigmoid" if heads is None else heads, generator)
