"""Base class of the terms that compare features of a network with those of the old network."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.guards import require_eager
from lit_continual.methods.bases.old_network.answers import Ask
from lit_continual.methods.bases.old_network.layer_outputs import LayerOutputs, candidate_layers, level_ends
from lit_continual.methods.bases.old_network.taught_term import TaughtTerm


class FeatureTerm(TaughtTerm):
    """A term of what layers of the network in training and of the old one answer to the same images.

    Layers are seen by hooks, which are gone after the fit. A subclass writes ``compute``, which asks
    :meth:`ask_with_features` while there is a teacher. The other arguments are those of
    :class:`~lit_continual.methods.bases.old_network.taught_term.TaughtTerm`.

    Args:
        layers: Names of layers; ``None`` lets :meth:`choose` choose in the first step.

    Raises:
        MisconfigurationException: If the module is compiled or has no such layer.
    """

    #: Hooks on layers do not see a compiled network.
    needs_eager = True

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        teacher: str | Path | nn.Module | None = None,
        logits: Callable[..., Any] | None = None,
        name: str = "features",
    ) -> None:
        super().__init__(teacher, logits, name)
        self.layers = None if layers is None else list(layers)
        self._student: LayerOutputs | None = None
        self._chosen: list[str] | None = None  # in the first step of a fit

    def choose(self, outputs: Mapping[str, Tensor], logits: Tensor) -> list[str]:
        """Choose layers by what all of them answered, in the order of their calls: here the ends of levels."""
        return level_ends(outputs, logits)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self._teacher is not None:
            require_eager(pl_module, f"`{type(self).__name__}`")
            self._watch(pl_module, candidate_layers(pl_module) if self.layers is None else self.layers)
            self._chosen = self.layers

    def _watch(self, pl_module: LightningModule, layers: Sequence[str]) -> None:
        self._unwatch()
        self._student = LayerOutputs(pl_module, layers)
        self._student.active = False

    def _unwatch(self) -> None:
        if self._student is not None:
            self._student.remove()
        self._student = None

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._student is not None:
            self._student.active = True

    def ask_with_features(
        self, pl_module: LightningModule, student: Tensor, ask: Ask
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the teacher's logits, and of each layer the features of student and teacher.

        Args:
            pl_module: The module in training.
            student: The student's logits, of :meth:`question`.
            ask: How to ask the teacher, of :meth:`question`.

        Raises:
            MisconfigurationException: If a layer has answered no tensor.
        """
        assert self._student is not None
        ours, self._student.found, self._student.active = self._student.found, {}, False
        if self._chosen is None:
            self._chosen = self.choose(ours, student)
            self._watch(pl_module, self._chosen)
        layers, calls = self._chosen, list[Mapping[str, Tensor]]()

        def asked(network: nn.Module) -> Tensor:
            with LayerOutputs(network, layers) as outputs:
                logits = ask(network)
            calls.append(outputs.found)
            return logits

        teacher = self.ask(asked)
        if absent := [name for name in layers if name not in ours or name not in calls[0]]:
            raise MisconfigurationException(
                f"Layer `{absent[0]}` has answered no tensor in this step. Name others in `layers` of"
                f" `{type(self).__name__}`."
            )
        return teacher, [(ours[name], calls[0][name]) for name in layers]

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *given: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *given)
        if self._student is not None:
            self._student.found, self._student.active = {}, False

    @override
    def release(self, pl_module: LightningModule) -> None:
        super().release(pl_module)
        self._unwatch()
