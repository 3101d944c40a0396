"""How much the training data of the fits so far needed each input channel of the convolutions of a network."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lit_continual.methods.bases.fit.precision import full_precision, without_autocast
from lit_continual.methods.bases.fit.training_step import ask_step, loss_of
from lit_continual.methods.bases.importance.sample_gradients import sample_gradients
from lit_continual.methods.bases.importance.sample_mean import SampleMean
from lit_continual.methods.tgd.channel_importance import channel_importance, ranks
from lit_continual.methods.tgd.producers import Producers, find_producers


class MeasuredChannels:
    """Measure the input channels of convolutions when a fit ends, and remember the largest of all fits.

    Args:
        score: What is measured; see :func:`.channel_importance`.
        find: Finds the network in a module.
        samples: How many training samples to measure; ``None`` for all.

    Raises:
        ValueError: If ``samples`` is not positive.
    """

    who = "TargetedGradientDescent"
    remedy = "Choose `score='kse'`, which needs no data."

    def __init__(
        self,
        score: Literal["fisher", "activation_gradient"],
        find: Callable[[LightningModule], nn.Module],
        samples: int | None,
    ) -> None:
        self.score, self._find = score, find
        #: By the name of the weight in the network, of the largest in the layer.
        self.importance: dict[str, Tensor] = {}
        self.mean = SampleMean(self, samples)
        self._measured: dict[str, tuple[str, bool]] = {}  # its name in the network, and whether it is transposed

    def measured_parameters(self, pl_module: LightningModule) -> list[str]:
        """The names in the module of the weights of the convolutions that can be scored."""
        network = self._find(pl_module)
        layers = producers_of(network, pl_module).layers
        weights = {id(network.get_parameter(name)): (name, layer.transposed) for name, layer in layers.items()}
        self._measured = {n: weights[id(p)] for n, p in pl_module.named_parameters() if id(p) in weights}
        return list(self._measured)

    def blank(self, name: str, parameter: Tensor) -> Tensor:
        """An importance of 0 for each input channel of a convolution."""
        return torch.zeros(parameter.shape[0 if self._measured[name][1] else 1])

    def measure(
        self, module: LightningModule, batch: Any, parameters: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor] | None:
        """What the training loss of one sample says of the input channels of each convolution."""
        loss = loss_of(ask_step(module, batch))
        if loss is None:
            return None
        (gradients,) = sample_gradients(loss.reshape(1), list(parameters.values()))
        found = zip(parameters.items(), gradients, strict=True)
        return {
            name: channel_importance(full_precision(p.detach()), full_precision(g), self.score, self._measured[name][1])
            for (name, p), g in found
        }

    def consolidate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what the fit that ends needed."""
        for name, value in self.mean.of_fit(trainer, pl_module, "Importances of channels").items():
            share, own = value.cpu() / (value.max().item() or 1.0), self._measured[name][0]
            before = self.importance.get(own, share)
            self.importance[own] = torch.maximum(before, share) if len(before) == len(share) else share

    def ranks(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the rank of each input channel in its layer; see :func:`.ranks`.

        Args:
            sizes: Input channels of each convolution, by the name of its weight.

        Raises:
            MisconfigurationException: If one was never measured.
        """
        known = {name: value for name, value in self.importance.items() if len(value) == sizes.get(name)}
        if unknown := sorted(sizes.keys() - known.keys()):
            raise MisconfigurationException(
                f"`score='{self.score}'` is measured when a fit with this callback ends, and nothing is known of"
                f" `{unknown[0]}` yet. Set `after: 1`, or start from a checkpoint of such a fit, or choose"
                " `score='kse'`, which needs no data."
            )
        return {name: ranks(value) for name, value in known.items()}


def random_channels(sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Scores of input channels that say nothing, the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}


def producers_of(network: nn.Module, pl_module: LightningModule) -> Producers:
    """Follow the channels of a network, with the example input of its module, in the precision of its weights."""
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))

    def fitted(value: Tensor) -> Tensor:
        return value.to(like) if value.is_floating_point() else value.to(like.device)

    example = tree_map_only(Tensor, fitted, pl_module.example_input_array)
    if pl_module._trainer is None:
        return find_producers(network, example)
    with without_autocast(pl_module.trainer.precision_plugin, pl_module.device):
        return find_producers(network, example)
