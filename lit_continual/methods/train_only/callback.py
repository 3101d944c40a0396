"""Fine-tuning of some layers only."""

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from lit_continual.methods.bases.fit.frozen_entries import learnt_values
from lit_continual.methods.bases.names import lies_in, names_of_values, similar_names
from lit_continual.methods.bases.partial_training import PartialTraining


class TrainOnly(PartialTraining):
    """Train the named parts of a network, such as its last blocks, and keep the rest bit-identical.

    What is not named keeps its running statistics and its other buffers as well. Parameters that the last fit did not
    have, such as a new head, are trained. Without a name they alone are: the network then answers as before on all old
    classes, bit for bit in evaluation mode.

    Args:
        parts: Submodules or parameters by name, such as ``blocks.7``; none for what is new.
        network: The submodule that the names lie in; by default the whole module.
        after: Fits to leave alone at first: 1 in a stream whose first experience trains from random weights. A stream
            that starts from a checkpoint has one behind it.
        hold_statistics: Let held channels of a batch normalisation normalise by their running statistics, which are
            held, in training too. Without it they normalise by the batch while the rest learns, and otherwise after.

    Raises:
        ValueError: If ``parts`` is no list or, when a fit starts, names something that is not there.

    Logs ``train/free_share``, the share of the parameters that is trained, each epoch.

    References:
        The FT-net of Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, section 4.

    Example:
        >>> callback = TrainOnly(["blocks.5", "blocks.6", "blocks.7"], network="network", after=1)
        >>> new_heads = TrainOnly(after=1, hold_statistics=True)
    """

    how_to_free = "name something with parameters in `parts`, or set `after` to the fits that train all of it"

    def __init__(
        self, parts: Sequence[str] = (), network: str | None = None, after: int = 0, hold_statistics: bool = False
    ) -> None:
        super().__init__(network, after, hold_statistics)
        if isinstance(parts, str):
            raise ValueError(f"`parts` must be a list of names, got {parts!r}.")
        self.parts = list(parts)

    @override
    def require_named(self, network: nn.Module) -> None:
        self._named(network)

    @override
    def choose_masks(self, network: nn.Module, pl_module: LightningModule, fresh: set[str]) -> Mapping[str, Tensor]:
        trained = fresh.union(self._named(network))
        return {name: torch.tensor(name in trained) for name in learnt_values(network)}

    def _named(self, network: nn.Module) -> set[str]:
        """What lies in the parts that are named."""
        learnt, named = learnt_values(network), names_of_values(network)
        found = {part: {named[name] for name in named if lies_in(name, part)} & learnt.keys() for part in self.parts}
        for part, names in found.items():
            if not names:
                raise ValueError(
                    f"`{type(network).__name__}` has nothing to train called `{part}`. It has"
                    f" {', '.join(name for name, _ in network.named_children())}. The most like it at any depth are"
                    f" {similar_names(part, named)}."
                )
        return set().union(*found.values())
