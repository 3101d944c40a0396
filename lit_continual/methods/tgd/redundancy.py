"""Which kernels of a network are redundant, and what a threshold on them frees or drops."""

import copy
import math
from bisect import bisect_left
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from lit_continual.methods.bases.fit.frozen_entries import free_share, learnt_values
from lit_continual.methods.tgd.kernel_sparsity_entropy import kernel_sparsity_entropy
from lit_continual.methods.tgd.producers import Producers


def kernel_scores(
    network: nn.Module,
    producers: Producers,
    k: int = 5,
    alpha: float = 1.0,
    fresh: Collection[str] = (),
    channels: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    r"""Score every kernel by the convolutions that read what it makes.

    .. math:: \mathrm{score}(\text{layer } i - 1, n) = \max_i \mathrm{KSE}^{(i)}_{c(n)}

    over all the input channels :math:`c(n)` that kernel :math:`n` has a part in: it is redundant only if it is so for
    all its readers. Its bias, and the normalisation of its channel, share its score; a channel that several kernels
    make takes the largest of theirs.

    Args:
        network: The network, with the weights to score.
        producers: What :func:`~lit_continual.methods.tgd.producers.find_producers` found in it.
        k: Neighbours, as in :func:`~lit_continual.functional.kernel_sparsity_entropy`.
        alpha: Weight of the entropy there.
        fresh: Names of parameters that hold no knowledge yet, such as a head that has just grown: they score nobody
            and are free at any threshold.
        channels: Scores in [0, 1] of the input channels of each convolution, by the name of its weight, in place of
            KSE.

    Raises:
        KeyError: If ``channels`` lack a convolution that is not fresh.

    Returns:
        For each parameter and running statistic, scores that broadcast against it: one a kernel or channel, in
        [0, 1]; infinite for what must not move at any threshold, minus infinite for what is ``fresh``. float64.

    References:
        Chen, Asma and Chan. Targeted Gradient Descent. MICCAI 2021, section 2.1.
    """
    weights = dict(network.named_parameters())
    worst = {name: [-math.inf] * weights[name].shape[layer.transposed] for name, layer in producers.layers.items()}
    for name, layer in producers.layers.items():
        if name not in fresh:
            if channels is None:
                scores = kernel_sparsity_entropy(weights[name], k, alpha, layer.transposed)
            else:
                scores = channels[name]
            for score, kernels in zip(scores.tolist(), layer.inputs, strict=True):
                for maker, n in kernels:
                    worst[maker][n] = max(worst[maker][n], score)
    for maker, n in producers.held:
        worst[maker][n] = math.inf
    return {**_spread(network, producers, worst), **{name: torch.tensor(-math.inf).double() for name in fresh}}


def _spread(network: nn.Module, producers: Producers, worst: Mapping[str, list[float]]) -> dict[str, Tensor]:
    """Scores of the kernels as scores of parameters and statistics; a kernel that nobody scored must not move."""
    known = {maker: [score if score > -math.inf else math.inf for score in scores] for maker, scores in worst.items()}
    named = learnt_values(network)
    spread = {name: torch.full((1,) * value.ndim, math.inf, dtype=torch.float64) for name, value in named.items()}
    for name, layer in producers.layers.items():
        scores = torch.tensor(known[name], dtype=torch.float64)
        spread[name] = scores.view(*(-1 if axis == layer.transposed else 1 for axis in range(named[name].ndim)))
        if layer.bias is not None:
            spread[layer.bias] = scores
    for name, flow in producers.affine.items():
        channels = [max((known[maker][n] for maker, n in kernels), default=math.inf) for kernels in flow]
        spread[name] = torch.tensor(channels, dtype=torch.float64)
    for name in named:  # the count goes on while any channel of its normalisation does
        if name.endswith("num_batches_tracked"):
            spread[name] = spread[name.replace("num_batches_tracked", "running_mean")].min()
    return spread


def threshold_for_share(network: nn.Module, scores: Mapping[str, Tensor], share: float) -> float:
    """The smallest threshold in [0, 1] below which at least ``share`` of the parameters score.

    Raises:
        ValueError: If even a threshold of 1 frees less.
    """

    def freed(phi: float) -> float:
        return free_share(network, {name: score < phi for name, score in scores.items()})

    finite = torch.cat([score.flatten() for score in scores.values()])
    candidates = [*torch.unique(finite[(finite >= 0) & (finite < 1)]).tolist(), 1.0]
    if (most := freed(1.0)) < share:
        raise ValueError(f"`share` is {share}, and at most {most:.4f} of the parameters can be freed: ask for less.")
    return float(candidates[bisect_left(candidates, share, key=freed)])  # the share grows with the threshold


def drop_kernels(network: nn.Module, scores: Mapping[str, Tensor], phi: float) -> nn.Module:
    """A copy of a network without the kernels that score below ``phi``, for the study of the paper's Fig. 4.

    Kernel, bias, and the normalisation's scale and shift are 0, so that the channel is 0 throughout.
    """
    dropped = copy.deepcopy(network)
    with torch.no_grad():
        for name, value in dropped.named_parameters():
            redundant = (scores[name] >= 0) & (scores[name] < phi)
            value.masked_fill_(redundant.to(value.device), 0.0)
    return dropped
