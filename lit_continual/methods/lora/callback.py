"""LoRA: low-rank adapters are trained and merged."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.early_layers import make_layers
from lit_continual.methods.bases.fit.frozen_entries import learnt_values
from lit_continual.methods.bases.guards import require_eager
from lit_continual.methods.bases.names import lies_in, similar_names
from lit_continual.methods.bases.partial_training import PartialTraining
from lit_continual.methods.lora.adapters import Adapters, adaptable, require_peft


class LoRA(PartialTraining):
    r"""Train low-rank adapters of a network's layers in place of their weights, and merge them when the fit ends.

    .. math:: W = W_0 + \frac{\alpha}{r} B A, \qquad A \in \mathbb{R}^{r \times k}, \; B \in \mathbb{R}^{n \times r}

    with :math:`B = 0` at first, for the linear layers and convolutions in 2D and 3D that peft can adapt; :math:`k` is
    the number of inputs times the size of the kernel. Only the adapters are trained, the parts that are named, and
    parameters that the last fit did not have, such as a new head; all else stays bit-identical, biases and
    normalisations too. After the fit the module has the layers that it had, each moved by a matrix of rank :math:`r` at
    most, and checkpoints are those of the module, also during the fit: their weights are merged, and the adapters
    stand in the state of the callback, from which a fit is resumed.

    Args:
        rank: :math:`r`, 1 or more.
        alpha: :math:`\alpha`, positive.
        layers: Submodules whose layers are adapted, by name; none for all.
        parts: Submodules or parameters that are trained as they are, by name, such as a head that the network had
            before.
        network: The submodule that the names lie in; by default the whole module.
        after: Fits to leave alone at first: 1 in a stream whose first experience trains from random weights. A stream
            that starts from a checkpoint has one behind it.
        hold_statistics: Let batch normalisations normalise by their running statistics, which are held, in training
            too. Without it they normalise by the batch while the adapters learn, and otherwise after.

    Raises:
        ValueError: If an argument is out of range or, when a fit starts, a name has nothing to adapt or to train.
        MisconfigurationException: If peft is not installed; when a fit starts, if the module is compiled or another
            callback averages weights or knows them by their names, which adapters change during a fit; and under
            strategies that shard the module or drop its processes.

    Logs ``train/free_share``, the share of the parameters that is trained, each epoch.

    References:
        Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022, eq. 3.

    Example:
        >>> callback = LoRA(rank=4, alpha=8, layers=["body"], after=1)
    """

    #: Adapters take the place of layers, which a compiled network would go on without.
    needs_eager = True
    how_to_free = "name something with layers in `layers`"

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        layers: Sequence[str] = (),
        parts: Sequence[str] = (),
        network: str | None = None,
        after: int = 0,
        hold_statistics: bool = False,
    ) -> None:
        require_peft()
        super().__init__(network, after, hold_statistics)
        if rank < 1 or not 0 < alpha < float("inf"):
            raise ValueError(f"`rank` must be 1 or more and `alpha` positive, got {rank} and {alpha}.")
        if isinstance(layers, str) or isinstance(parts, str):
            raise ValueError(f"`layers` and `parts` must be lists of names, got {layers!r} and {parts!r}.")
        self.rank, self.alpha, self.layers, self.parts = rank, alpha, list(layers), list(parts)
        self._adapters: Adapters | None = None
        self._left: dict[str, dict[str, Tensor]] = {}  # of an exception, after which a checkpoint may be written

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._left = {}
            self._require_alone(trainer)
            make_layers(trainer, pl_module, self)
            require_eager(pl_module, "`LoRA`")
            if self._fits >= self.after:  # before the optimizers, and before the module's own setup, where heads grow
                self._adapt(pl_module, self._chosen(self._find(pl_module)))

    @override
    def rehearse(self, trainer: Trainer, pl_module: LightningModule, data: Any) -> None:
        self._require_alone(trainer)
        super().rehearse(trainer, pl_module, data)

    @override
    def require_named(self, network: nn.Module) -> None:
        self._chosen(network)
        self._in_parts(network)

    def _require_alone(self, trainer: Trainer) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for one in callbacks:
            averages = {"WeightAveraging", "StochasticWeightAveraging"} & {kind.__name__ for kind in type(one).__mro__}
            if one is not self and (averages or getattr(one, "knows_weights", False)):
                raise MisconfigurationException(
                    f"`LoRA` has adapters in the place of layers during a fit, and `{type(one).__name__}` knows weights"
                    " by their names or places. Drop one of the two."
                )

    def _chosen(self, network: nn.Module) -> list[str]:
        found, known = adaptable(network), [name for name, _ in network.named_modules() if name]
        for part in self.layers:
            if not any(lies_in(name, part) for name in found):
                raise ValueError(
                    f"`{type(network).__name__}` has no linear layer or plain convolution in `{part}`. The most like it"
                    f" at any depth are {similar_names(part, known)}."
                )
        old = [name for name in found if not self._known or f"{name}.weight" in self._known]  # new ones train whole
        inside = [name for name in old if not self.layers or any(lies_in(name, part) for part in self.layers)]
        return [name for name in inside if not any(lies_in(name, part) for part in self.parts)]

    def _adapt(self, pl_module: LightningModule, names: Sequence[str]) -> None:
        self._merge()
        layers = {name: self._find(pl_module).get_submodule(name) for name in names}
        self._adapters = Adapters(pl_module, layers, self.rank, self.alpha)

    def _merge(self) -> None:
        if self._adapters is not None:
            self._adapters.merge()
            self._adapters = None

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        state = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("adapters", {})
        if trainer.training and self._adapters is not None and self._adapters.of and not state:
            raise MisconfigurationException(
                f"The checkpoint {trainer.ckpt_path} has no adapters, so a fit with `LoRA` cannot go on from it. Load"
                " its weights into the module, and begin a fit."
            )
        if state and trainer.training:
            if self._adapters is None or state.keys() != self._adapters.of.keys():
                self._adapt(pl_module, list(state))
            assert self._adapters is not None
            self._adapters.load_state_dict(state)

    @override
    def choose_masks(self, network: nn.Module, pl_module: LightningModule, fresh: set[str]) -> Mapping[str, Tensor]:
        learnt, adapters = learnt_values(network), self._adapters.of if self._adapters is not None else {}
        mine = {name for name in learnt if any(lies_in(name, adapter) for adapter in adapters)}
        trained = {name for name in mine if ".lora_" in name} | (fresh - mine)
        trained |= self._in_parts(network)
        return {name: torch.tensor(name in trained) for name in learnt}

    def _in_parts(self, network: nn.Module) -> set[str]:
        learnt, trained = learnt_values(network), set[str]()
        for part in self.parts:
            found = {name for name in learnt if lies_in(name, part)}
            if not found:
                raise ValueError(
                    f"`{type(network).__name__}` has nothing to train called `{part}`. The most like it at any depth"
                    f" are {similar_names(part, learnt)}."
                )
            trained |= found
        return trained

    @override
    def follow(self, pl_module: LightningModule) -> None:
        self._merge()
        super().follow(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        state = {} if self._adapters is None else self._adapters.state_dict()
        self._left = {name: {part: value.clone() for part, value in parts.items()} for name, parts in state.items()}
        super().on_exception(trainer, pl_module, exception)

    @override
    def release(self, pl_module: LightningModule) -> None:
        super().release(pl_module)
        self._merge()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "adapters": self._left if self._adapters is None else self._adapters.state_dict(),
        }
