"""Samples as the network sees them that has learnt from them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from lit_continual.selection.abstraction import abstraction
from lit_continual.selection.mc_dropout import dropout_uncertainty
from lit_continual.selection.progress import shown
from lit_continual.selection.samples import Measurement, Samples


def measured(
    network: nn.Module,
    images: Sequence[Tensor],
    contains: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    layer: str | None = None,
    passes: int = 29,
    batch_size: int = 8,
    group: ProcessGroup | None = None,
) -> Samples:
    """Describe samples by what a trained network makes of them, measured when a policy asks for it.

    Batches are the same whoever measures them, and shared among the processes of ``group``.

    Args:
        network: The trained network.
        images: ``(C, H, W[, D])`` each, all of one size.
        contains: ``(n, J)``, bool: which of the classes are in the label of a sample.
        probabilities: Maps images ``(B, C, H, W[, D])`` to probabilities ``(B, J, …)`` with the network.
        layer: Its abstraction layer, for ``features``.
        passes: :math:`t_{MC}`, for ``uncertainty``.
        batch_size: Images that go through the network at once.
        group: Processes that choose together, each with the same samples.

    Example:
        >>> network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(1, 1, 1))
        >>> images = [torch.ones(1, 4, 4)] * 3
        >>> samples = measured(network, images, torch.ones(3, 1, dtype=torch.bool), network, layer="1")
        >>> samples.need("features", "me").shape, samples.uncertainty.value
        (torch.Size([3, 1]), None)
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))

    def by_batch(measure: Callable[[Tensor], Tensor], what: str) -> Tensor:
        rank, world = (0, 1) if group is None else (distributed.get_rank(group), distributed.get_world_size(group))
        starts = range(0, len(images), batch_size)
        mine = {
            start: measure(torch.stack([*images[start : start + batch_size]]).to(device)).cpu()
            for start in shown(starts[rank::world], what)
        }
        gathered = [mine] * world
        if group is not None:
            distributed.all_gather_object(gathered, mine, group=group)
        whole = {start: found for part in gathered for start, found in part.items()}
        return torch.cat([whole[start] for start in starts]).to(device)

    def features(batch: Tensor) -> Tensor:
        if layer is None:
            raise ValueError("Features need the name of the network's abstraction layer: give it as `layer`.")
        return abstraction(network, layer, batch)

    def uncertainty(batch: Tensor) -> Tensor:
        return dropout_uncertainty(network, batch, probabilities, passes)

    return Samples(
        contains.to(device),
        Measurement(lambda: by_batch(uncertainty, f"Certainty, {passes} passes")),
        Measurement(lambda: by_batch(features, "Abstraction")),
        Measurement(lambda: torch.stack([*images]).to(device)),
        network,
        group,
    )
