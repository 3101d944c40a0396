"""CoRiSeg: the most certain slices, of which those nearest in content to the training set."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lit_continual.methods.rehearsal.content_distance import Reduction
from lit_continual.methods.rehearsal.coverage import maximum_coverage
from lit_continual.methods.rehearsal.selection.abstraction import layer_activations
from lit_continual.methods.rehearsal.selection.certainty_coverage import most_certain
from lit_continual.methods.rehearsal.selection.content_distances import Activations, content_distances
from lit_continual.methods.rehearsal.selection.samples import POLICIES, Samples, union
from lit_continual.networks import NETWORKS


@POLICIES.add
class ContentCoverage:
    r"""CoRiSeg: for each class, greedy coverage of the whole training set by content distance.

    The candidates of a class are its :math:`k_c` most certain slices; the exemplars maximise
    :math:`\sum_i \max_{s \in S} -d_{cont}(I_i, I_s)`, from :math:`-\infty`. Needs ``images``, and ``uncertainty``
    unless all slices of a class are candidates.

    Args:
        network: What sees the content: ``class_path``, a network of ours or of MONAI by its name or any class, and
            ``init_args``; ``"own"`` for the network that has learnt from the samples; or a function that maps a batch
            of images to the activations of one layer after the other (a generator saves memory; it must treat images
            one by one).
        layers: Names of its layers; not for a network that has ``activations`` of its own, such as ``VGG16Features``.
        most_certain: :math:`k_c`, 50 in the paper; ``None`` for all slices of a class.
        reduction: See :func:`~lit_continual.functional.content_distance`.
        batch_size: Images that go through the network at once.

    Raises:
        ValueError: If the network cannot be built, or its layers are not named.
        FileNotFoundError: If its weights are not there and cannot be downloaded.

    References:
        Ozdemir et al. Learn the New, Keep the Old. MICCAI 2018, section 2.2, eq. 3.

    Example:
        >>> images = torch.tensor([0.0, 1.0, 5.0]).view(3, 1, 1, 1)
        >>> samples = Samples(torch.ones(3, 1, dtype=torch.bool), images=images)
        >>> ContentCoverage(lambda batch: [batch], most_certain=None)(samples, budget=2)
        [1, 2]
    """

    def __init__(
        self,
        network: Mapping[str, Any] | str | Activations = "VGG16Features",
        layers: Sequence[str] = (),
        most_certain: int | None = 50,
        reduction: Reduction = "mean",
        batch_size: int = 8,
    ) -> None:
        if most_certain is not None and most_certain < 1:
            raise ValueError(f"`most_certain`, the candidates of a class, must be at least 1, got {most_certain}.")
        self.network = network if callable(network) or network == "own" else _built(network)
        plain = isinstance(self.network, nn.Module) and not hasattr(self.network, "activations")
        if not layers and (plain or self.network == "own"):
            raise ValueError(f"`layers` must name the layers of {network} whose activations are compared.")
        self.layers, self.most_certain, self.reduction, self.batch_size = layers, most_certain, reduction, batch_size

    def __call__(self, samples: Samples, budget: int) -> list[int]:
        """Return up to ``budget`` samples, the classes in turn."""
        images, orders = samples.given("images", self), []
        activations = self._activations(samples, samples.contains.device)
        for label in range(samples.contains.shape[1]):
            if self.most_certain is None:
                candidates = samples.members(label)
            else:
                candidates = most_certain(samples, samples.need("uncertainty", self), label, self.most_certain)
            candidates = candidates.sort().values  # a tie goes to the lowest index
            distance = content_distances(
                images, candidates, activations, self.reduction, self.batch_size, samples.group
            )
            orders.append([int(candidates[pick]) for pick in maximum_coverage(-distance, budget)])
        return union(orders)[:budget]

    def _activations(self, samples: Samples, device: torch.device) -> Activations:
        network: Any = samples.network if self.network == "own" else self.network
        if network is None:
            raise ValueError("`network: own` needs the network that has learnt from the samples; name another one.")
        if not isinstance(network, nn.Module):
            return network  # type: ignore[no-any-return]
        seen: Any = network.to(device)
        return partial(layer_activations, seen, self.layers) if self.layers else seen.activations


def _built(network: Mapping[str, Any] | str) -> nn.Module:
    """Build a network; its weights, if they are random, are always the same, and disturb no random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: nn.Module = NETWORKS.build(network)
    return built.eval().requires_grad_(False)
