"""PLOP: pooled features of the old network, and its certain answers as labels of the background."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from lit_continual.methods.bases.fit.precision import full_precision
from lit_continual.methods.bases.fit.training_batches import training_batches
from lit_continual.methods.bases.old_network import answers
from lit_continual.methods.bases.old_network.feature_term import FeatureTerm
from lit_continual.methods.bases.old_network.one_softmax import (
    Target,
    require_one_softmax,
    shared_head,
    target_of,
)
from lit_continual.methods.plop.local_pod import local_pod_distance
from lit_continual.methods.plop.pseudo_labels import PseudoLabels, count_entropies, median_thresholds, pseudo_labels
from lit_continual.segmentation.merged_background import merged_background

SURE = 30.0  # a logit whose softmax is one-hot in single precision


class PLOP(FeatureTerm):
    r"""Learn new classes in one softmax, with labels and features of the old network.

    .. math:: L = \frac{1}{B} \sum_i \nu_i L_c(\tilde y_i) + \sqrt{\frac{C}{C - K}} \, \frac{1}{F + 1}
        \left( \lambda_f \sum_l d(f_l, f_l^*) + \lambda_z \, d(z, z^*) \right)

    From the second fit on this takes the place of the module's own loss, which has no weight. Background that the old
    network is certain of gets its answer as label :math:`\tilde y`; the rest of the background is ignored, and
    :math:`\nu_i` is the certain share of the background of a sample. Certain is what has a lower entropy than the
    median of its class, which one pass over the training data finds at the start of a fit. :math:`d` is
    :func:`~lit_continual.functional.local_pod_distance`, of the features :math:`f_l` of :math:`F` layers and of the
    logits :math:`z`, in which new classes are summed up with the background. :math:`K` of the :math:`C` channels are
    the old network's; without new classes the root is 1.

    :math:`L_c` of a ``Segmenter`` with ``heads: shared`` is its own loss, by default Dice plus cross-entropy, to which
    ignored voxels are background that is found. It is that of each sample by itself; a loss over batches, such as one
    of MONAI with ``batch=True``, is taken once and weighed by the mean :math:`\nu`. Of any other module :math:`L_c` is
    the cross-entropy of the logits, without the Dice term that its own loss may have.

    Args:
        pod_factor: :math:`\lambda_f`, not negative.
        pod_logits_factor: :math:`\lambda_z`, not negative.
        scales: Windows along each axis, from 1 on.
        layers: Names of the layers whose outputs are features. ``None`` takes the last layer of each level, before the
            size of the maps changes: of a U-Net the ends of the levels of encoder and decoder.
        threshold: Least threshold of the entropy, which is relative to its maximum, in [0, 1].
        schedule: Weigh the features by the root of all channels over new ones.
        teacher: See :class:`~lit_continual.callbacks.Distillation`.
        logits: See :class:`~lit_continual.callbacks.Distillation`. It is also how the teacher is asked in the pass over
            the training data; without it, it is asked about ``batch["image"]`` or the first part of a batch.
        target: How to get the channel of each voxel, ``(B, *spatial)`` of integers with 0 for background: called with
            the module and the batch. A ``Segmenter`` needs none.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If an argument is out of range, or the teacher cannot be read.
        MisconfigurationException: If the module has several heads with a background each, is compiled or has no such
            layer; in the first step, if the two networks cannot be asked alike or the labels are not found.

    Logs ``train/<name>``, :math:`L` as it is trained, ``train/<name>_pod``, its second part, and
    ``train/<name>_certain``, the mean :math:`\nu`, at every step with a teacher.

    References:
        Douillard et al. PLOP: Learning without Forgetting for Continual Semantic Segmentation. CVPR 2021, eq. 3 to 10.
        https://arxiv.org/abs/2011.11390

    Example:
        >>> callback = PLOP(pod_factor=0.01)
    """

    def __init__(
        self,
        pod_factor: float = 0.01,
        pod_logits_factor: float = 0.0005,
        scales: Sequence[int] = (1, 2, 4),
        layers: Sequence[str] | None = None,
        threshold: float = 0.001,
        schedule: bool = True,
        teacher: str | Path | nn.Module | None = None,
        logits: Callable[..., Any] | None = None,
        target: Target | None = None,
        name: str = "plop",
    ) -> None:
        if not 0 <= min(pod_factor, pod_logits_factor) <= max(pod_factor, pod_logits_factor) < float("inf"):
            raise ValueError(
                "`pod_factor` and `pod_logits_factor` must be 0 or more and finite, got"
                f" {pod_factor} and {pod_logits_factor}."
            )
        if not scales or min(scales) < 1:
            raise ValueError(f"`scales` must be one or more numbers from 1 on, got {list(scales)}.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must be in [0, 1], got {threshold}.")
        super().__init__(layers, teacher, logits, name)
        self.pod_factor, self.pod_logits_factor, self.scales = pod_factor, pod_logits_factor, list(scales)
        self.threshold, self.schedule, self.target = threshold, schedule, target
        self._thresholds: Tensor | None = None  # of each class of the teacher, for the fit that is under way

    @override
    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        super().rehearse(trainer, pl_module, data)
        require_one_softmax(pl_module, self)

    @override
    def share_of_loss(self, batch: Any) -> float:
        return 1.0 if self._teacher is None else 0.0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is None:
            self._thresholds = None  # of a fit that ended in an exception
        super().on_fit_start(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._teacher is not None and self._thresholds is None:
            self._thresholds = self._measure(trainer, pl_module)

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> Tensor | None:
        """Find the median entropy of each class in the background of the training data, of all processes."""
        counts: Any = None
        for batch in training_batches(trainer):
            with trainer.precision_plugin.train_step_context():
                found = self.ask(self._about(batch))
            background = self._targets(pl_module, batch, found) == 0
            counted = count_entropies(found, background)
            counts = counted if counts is None else counts + counted
        if counts is None:
            return None  # There is no batch to train on either.
        total = trainer.strategy.reduce(counts, reduce_op="sum").as_subclass(Tensor)  # of a `MetaTensor` of MONAI
        return median_thresholds(total, self.threshold).cpu()

    def _about(self, batch: Any) -> answers.Ask:
        logits = self.logits
        return answers.of_images(batch) if logits is None else lambda network: logits(network, batch)

    def _targets(self, pl_module: LightningModule, batch: Any, logits: Tensor) -> Tensor:
        """The channel of each voxel; -1 in samples that are not trained on."""
        found = shared_head(pl_module)
        if self.target is not None or found is None:
            return target_of(self.target, pl_module, batch, logits)
        segmenter, head = found
        labels = zip(batch["label"][:, 0], segmenter.names(batch), strict=True)
        return torch.stack([head.targets(label, names) - int(not names) for label, names in labels])

    @override
    def compute(self, pl_module: LightningModule, batch: Any, outputs: Any) -> Tensor | None:
        self.see_channels(pl_module, outputs)
        if self._teacher is None:
            return None
        student, ask = self.question(pl_module, batch, outputs)
        teacher, pairs = self.ask_with_features(pl_module, student, ask)
        answers.require_grown(student, teacher)
        assert self._thresholds is not None
        labels = pseudo_labels(self._targets(pl_module, batch, student), teacher, self._thresholds)
        pod = self._pod(student, teacher, pairs)
        logged = {"pod": pod.detach(), "certain": labels.certain.mean()}
        pl_module.log_dict({f"train/{self.name}_{part}": value for part, value in logged.items()})
        return self._supervised(pl_module, full_precision(student), labels) + pod

    def _pod(self, student: Tensor, teacher: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        old, all_channels = teacher.shape[1], student.shape[1]
        merged = merged_background(full_precision(student), range(old, all_channels))
        total = self.pod_logits_factor * local_pod_distance(merged, full_precision(teacher), self.scales)
        for ours, theirs in pairs:
            total = total + self.pod_factor * local_pod_distance(ours, theirs, self.scales)
        new = all_channels - old
        return total / (len(pairs) + 1) * (math.sqrt(all_channels / new) if self.schedule and new else 1.0)

    def _supervised(self, pl_module: LightningModule, logits: Tensor, labels: PseudoLabels) -> Tensor:
        found = shared_head(pl_module)
        if self.target is not None or found is None:
            losses = cross_entropy(logits, labels.target, reduction="none").masked_fill(labels.ignored, 0.0)
            return (labels.certain * losses.flatten(1).mean(1)).mean()
        sure = logits.new_full((1, logits.shape[1], *[1] * (logits.ndim - 2)), -SURE)
        sure[:, 0] = SURE
        known, targets = torch.where(labels.ignored[:, None], sure, logits), labels.target[:, None]
        loss, rows = found[0].loss, (targets.flatten(1)[:, 0] >= 0).nonzero()[:, 0]
        groups = [rows] if len(rows) and _over_batches(loss) else rows[:, None]
        weighed = [labels.certain[group].sum() * loss(known[group], targets[group]) for group in groups]
        return sum(weighed, logits[:0].sum()) / len(logits)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_end(trainer, pl_module)
        self._thresholds = None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "thresholds": self._thresholds}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._thresholds = state_dict["thresholds"]


def _over_batches(loss: nn.Module) -> bool:
    """Whether a loss is that of a batch as a whole, as MONAI's are by ``batch=True``."""
    return any(getattr(part, "batch", False) is True for part in loss.modules())
