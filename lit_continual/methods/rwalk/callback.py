"""RWalk: hold each weight by its Fisher information and by what it has done for the loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.anchor import snapshot
from lit_continual.methods.bases.fit.precision import wide
from lit_continual.methods.bases.importance.importance_penalty import grown
from lit_continual.methods.bases.importance.path_importance import Named, PathImportance
from lit_continual.methods.rwalk.importance import of_the_largest, path_score


class RWalk(PathImportance):
    r"""Hold the weights that matter now and those that mattered on the way: Riemannian Walk, on any LightningModule.

    .. math:: L + \lambda \sum_i (\hat F_i + \hat s_i)(\theta_i - \theta^*_i)^2

    :math:`F \leftarrow \alpha g^2 + (1 - \alpha) F` runs on from step to step and from fit to fit. Every few steps the
    score :math:`s` gains :math:`\max(0, \Delta L) / (\frac{1}{2} F \Delta\theta^2 + \epsilon)`, see eq. 7, and when a
    fit ends it is averaged with that of the fits before. Both are divided by their largest entry. :math:`g` and
    :math:`\Delta\theta` are those of :class:`~lit_continual.callbacks.SI`. So :math:`F` is, as in the paper, of the
    gradients of batches and not of samples; where that matters, take :class:`~lit_continual.callbacks.EWC`.

    Args:
        strength: :math:`\lambda`, not negative.
        alpha: :math:`\alpha`, weight of the newest gradient in :math:`F`, in (0, 1]. The paper's 0.9 remembers two or
            three batches; 0.01 some hundred.
        every: Optimizer steps between two gains of the score.
        damping: :math:`\epsilon`, positive.
        parameters: Which to hold: globs for a run of components of the dotted name, such as ``encoder``.
        name: Tells this instance from others of its class, in the logs and in checkpoints.

    Raises:
        ValueError: If an argument is out of range, or, when a fit starts, if a held parameter is gone or has another
            shape and has not grown.
        MisconfigurationException: If gradients would still be scaled when they are edited, and under strategies that
            shard the module or drop its processes.

    Logs ``train/<name>``, the penalty, at every optimizer step from the second fit on.

    References:
        Chaudhry et al. Riemannian Walk for Incremental Learning. ECCV 2018, eq. 5 to 9.

    Example:
        >>> callback = RWalk(strength=1.0)
    """

    def __init__(
        self,
        strength: float = 1.0,
        alpha: float = 0.9,
        every: int = 10,
        damping: float = 1e-3,
        parameters: str | Sequence[str] = "*",
        name: str = "rwalk",
    ) -> None:
        super().__init__(strength, 0.0, parameters, name)  # both parts look back by themselves
        if not 0 < alpha <= 1:
            raise ValueError(f"`alpha` must be in (0, 1], got {alpha}.")
        if every < 1 or damping <= 0:
            raise ValueError(f"`every` and `damping` must be positive, got {every} and {damping}.")
        self.alpha, self.every, self.damping = alpha, every, damping
        self._steps_of: dict[str, int] = {}  # since the score of a parameter has gained

    @override
    def begin(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Named]:
        known = {sort: grown(self.sums.get(sort, {}), parameters) for sort in ("fisher", "old score")}
        zeros = {name: torch.zeros_like(p, dtype=wide(p)) for name, p in parameters.items()}
        fisher = {name: value.clone() for name, value in {**zeros, **known["fisher"]}.items()}
        own = {sort: {name: zero.clone() for name, zero in zeros.items()} for sort in ("score", "work")}
        self._steps_of = {**self._steps_of, **dict.fromkeys(zeros, 0)}
        return {"fisher": fisher, "old score": known["old score"], **own, "from": snapshot(parameters)}

    @override
    def gather(self, names: list[str], gradients: list[Tensor], work: list[Tensor]) -> None:
        fisher = [self.sums["fisher"][name] for name in names]
        torch._foreach_mul_(gradients, gradients)
        squares = [square.to(f) for square, f in zip(gradients, fisher, strict=True)]
        torch._foreach_lerp_(fisher, squares, self.alpha)
        torch._foreach_add_([self.sums["work"][name] for name in names], work)
        for name in names:
            self._steps_of[name] += 1
            if self._steps_of[name] == self.every:
                self._gain(name, self._tracked[name])

    def _gain(self, name: str, parameter: Tensor) -> None:
        work, start = self.sums["work"][name], self.sums["from"][name]
        moved = (parameter - start).to(work)
        self.sums["score"][name] += path_score(work, self.sums["fisher"][name], moved, self.damping)
        self._steps_of[name] = 0
        work.zero_()
        start.copy_(parameter)

    @override
    def importances(self, parameters: Mapping[str, nn.Parameter]) -> Named:
        for name, p in parameters.items():
            if self._steps_of[name]:
                self._gain(name, p)
        fisher, old, new = self.sums["fisher"], self.sums["old score"], self.sums["score"]
        score = {name: (old[name] + one) / 2 if name in old else one for name, one in new.items()}
        score = {**old, **score}  # of what did not train this time too
        self.sums = {"fisher": fisher, "old score": score}
        parts = of_the_largest(fisher), of_the_largest(score)
        return {name: parts[0][name] + parts[1][name] for name in fisher}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": self._steps_of} if self.sums else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._steps_of = dict(state_dict.get("steps", {}))
