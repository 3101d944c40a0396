"""What the network that has learnt from the samples measures of them."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from lit_continual.methods.bases.guards import uncompiled
from lit_continual.methods.rehearsal.selection.abstraction import abstraction
from lit_continual.methods.rehearsal.selection.mc_dropout import dropout_uncertainty
from lit_continual.methods.rehearsal.selection.progress import shown
from lit_continual.methods.rehearsal.selection.samples import Measurement, Samples


def measure_samples(
    network: nn.Module,
    images: Sequence[Tensor],
    contains: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    layer: str | None = None,
    passes: int = 29,
    batch_size: int = 8,
    group: ProcessGroup | None = None,
    relative: bool = False,
) -> Samples:
    """Describe samples by what a trained network makes of them, measured when a policy asks for it.

    Batches are the same whoever measures them, and shared among the processes of ``group``.

    Args:
        network: The trained network.
        images: ``(C, H, W[, D])`` each, all of one size.
        contains: ``(n, J)``, bool: which of the classes are in the label of a sample.
        probabilities: Maps images ``(B, C, H, W[, D])`` to probabilities ``(B, J, …)`` with the network.
        layer: Its abstraction layer, for ``features``.
        passes: :math:`t_{MC}`, for ``uncertainty``; of samples without any of the classes it is infinite.
        batch_size: Images that go through the network at once.
        group: Processes that choose together, each with the same samples.
        relative: Whether ``uncertainty`` is relative to what was seen of a class.

    Example:
        >>> network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(1, 1, 1))
        >>> images = [torch.ones(1, 4, 4)] * 3
        >>> samples = measure_samples(network, images, torch.ones(3, 1, dtype=torch.bool), network, layer="1")
        >>> samples.need("features", "me").shape, samples.uncertainty.value
        (torch.Size([3, 1]), None)
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    members = contains.any(1).nonzero().flatten().tolist()

    def by_batch(measure: Callable[[Tensor], Tensor], of: Sequence[int], what: str) -> Tensor:
        rank, world = (0, 1) if group is None else (distributed.get_rank(group), distributed.get_world_size(group))
        batches = [of[start : start + batch_size] for start in range(0, len(of), batch_size)]
        with uncompiled(network):
            mine = {
                n: measure(torch.stack([images[k] for k in batches[n]]).to(device)).cpu()
                for n in shown(range(len(batches))[rank::world], what)
            }
        gathered = [mine] * world
        if group is not None:
            distributed.all_gather_object(gathered, mine, group=group)
        whole = {n: found for part in gathered for n, found in part.items()}
        return torch.cat([whole[n] for n in range(len(batches))]).to(device)

    def features() -> Tensor:
        if layer is None:
            raise ValueError("Features need the name of the network's abstraction layer: give it as `layer`.")
        return by_batch(lambda batch: abstraction(network, layer, batch), range(len(images)), "Abstraction")

    def uncertainty() -> Tensor:
        found = torch.full(contains.shape, torch.inf, device=device)
        measure = partial(dropout_uncertainty, network, probabilities=probabilities, passes=passes, relative=relative)
        if members:  # of the others, nobody is a candidate
            found[members] = by_batch(measure, members, f"Certainty, {passes} passes")
        return found

    return Samples(contains.to(device), Measurement(uncertainty), Measurement(features), images, network, group)
