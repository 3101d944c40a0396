"""How one task of a meta-batch is turned into a gradient: MAML, FOMAML, ANIL, Reptile and, without one, Naive."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from lit_continual.methods.meta.inner_loop import Loss, Rates, Tensors, adapt
from lit_continual.methods.meta.meta_gradient import (
    Task,
    TaskGradient,
    check_options,
    reptile_gradient,
    task_gradient,
)


class MetaStrategy(ABC):
    r"""Turn one task, a pair of batches :math:`(D, D')`, into a gradient of the parameters before adaptation.

    Args:
        inner_lr: :math:`\alpha`, the rate of the inner steps, not negative.
        inner_steps: Number of inner steps, all on :math:`D`.

    Raises:
        ValueError: If an argument is out of range.
    """

    order = 1
    #: Whether the gradient by the inner rates is defined, so that they can be learned.
    learns_rates = True

    def __init__(self, inner_lr: float = 0.01, inner_steps: int = 1) -> None:
        check_options(inner_lr, self.order, "sum", inner_steps)
        self.inner_lr, self.inner_steps = inner_lr, inner_steps

    def adapted(self, names: Iterable[str]) -> list[str]:
        """Return those of the parameter names that the inner loop moves."""
        return list(names)

    def check(self, names: Iterable[str]) -> None:
        """Raise ``ValueError`` if the strategy does not fit a module with trainable parameters of these names."""
        if not list(names):
            raise ValueError("The module has no trainable parameter, so there is nothing to adapt: unfreeze some.")

    def adapt(self, loss: Loss, parameters: Tensors, batch: object, inner_lr: Rates) -> dict[str, Tensor]:
        """Return the parameters after the inner steps on ``batch``, without a graph: what evaluation uses."""
        fast = adapt(loss, parameters, batch, inner_lr, order=1, inner_steps=self.inner_steps)
        return {name: p.detach() for name, p in fast.items()}

    @abstractmethod
    def task_gradient(
        self, loss: Loss, parameters: Tensors, task: Task, inner_lr: Rates, scale: float, leaves: Tensors
    ) -> TaskGradient:
        """Return the outer loss, detached, and its gradient by each of ``leaves``, ``None`` where there is none."""


class MAML(MetaStrategy):
    r"""Differentiate the outer loss through the inner steps, second derivatives included.

    .. math:: \nabla_\theta L(\theta - \alpha \nabla_\theta L(\theta; D); D')

    References:
        Finn, Abbeel and Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017.

    Example:
        >>> MAML(inner_lr=0.1, inner_steps=2).order
        2
    """

    order = 2

    def task_gradient(
        self, loss: Loss, parameters: Tensors, task: Task, inner_lr: Rates, scale: float, leaves: Tensors
    ) -> TaskGradient:
        return task_gradient(loss, parameters, task, inner_lr, self.order, self.inner_steps, scale, leaves)


class FOMAML(MAML):
    r"""Take the inner gradients for constants: :math:`\nabla_{\theta'} L(\theta'; D')`, about half the work of MAML.

    References:
        Section 5.2 of the paper of :class:`MAML`.

    Example:
        >>> FOMAML(inner_lr=0.1).order
        1
    """

    order = 1


class ANIL(MAML):
    """MAML whose inner loop moves named parts only, such as the head; the outer gradient reaches everything.

    Args:
        parts: Names of submodules or parameters of the module, as in ``named_parameters``; each selects
            itself and all below it.
        inner_lr: See :class:`MetaStrategy`.
        inner_steps: See :class:`MetaStrategy`.

    Raises:
        ValueError: If ``parts`` is empty, or, before training, a part selects no parameter of the module.

    References:
        Raghu et al. Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML. ICLR 2020.

    Example:
        >>> ANIL(["head"]).adapted(["body.weight", "head.weight", "head.bias", "header.bias"])
        ['head.weight', 'head.bias']
    """

    def __init__(self, parts: Sequence[str], inner_lr: float = 0.01, inner_steps: int = 1) -> None:
        super().__init__(inner_lr, inner_steps)
        if not parts or isinstance(parts, str):
            raise ValueError(f"`parts` must be a list with at least one name, got {parts!r}; to adapt all, use MAML.")
        self.parts = list(parts)

    def adapted(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if any(f"{name}.".startswith(f"{part}.") for part in self.parts)]

    def check(self, names: Iterable[str]) -> None:
        names = list(names)
        for part in self.parts:
            if not any(f"{name}.".startswith(f"{part}.") for name in names):
                raise ValueError(f"`parts` names {part!r}, which selects no trainable parameter among {names}.")


class Reptile(MetaStrategy):
    """Go where plain gradient descent on the task leads; see :func:`~lit_continual.functional.reptile_gradient`.

    Its inner rates cannot be learned: the direction is not the gradient of a loss.

    Example:
        >>> Reptile(inner_lr=0.1, inner_steps=3).inner_steps
        3
    """

    learns_rates = False

    def task_gradient(
        self, loss: Loss, parameters: Tensors, task: Task, inner_lr: Rates, scale: float, leaves: Tensors
    ) -> TaskGradient:
        return reptile_gradient(loss, parameters, task, inner_lr, self.inner_steps, scale)


class Naive(Reptile):
    r"""Take no inner step: ordinary fine-tuning on the slices of both batches of a task.

    .. math:: \nabla_\theta \tfrac{1}{2} \left( L(\theta; D) + L(\theta; D') \right)

    What meta-tuning is compared with: the same slices, updates and gradient evaluations, without adaptation.

    References:
        Han et al. Learning to Learn Unlearned Feature for Brain Tumor Segmentation. 2018, "naive tune".

    Example:
        >>> Naive().inner_lr
        0.0
    """

    def __init__(self) -> None:
        super().__init__(inner_lr=0.0, inner_steps=1)

    def task_gradient(self, *arguments: Any, **named: Any) -> TaskGradient:
        value, gradients = super().task_gradient(*arguments, **named)
        return value, {name: None if g is None else g / 2 for name, g in gradients.items()}
