"""Monte Carlo dropout: how certain a trained network is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lit_continual.methods.rehearsal.mc_uncertainty import mc_uncertainty

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@contextmanager
def mc_dropout(network: nn.Module) -> Iterator[None]:
    """Let only the dropout of a network be random, as in training, and everything else be as in evaluation.

    Batch normalisation uses and keeps its running statistics. Afterwards, also after an exception, every module has
    the mode that it had before.

    Args:
        network: Holds dropout as modules; calls of ``torch.nn.functional.dropout`` cannot be found.

    Raises:
        ValueError: If there is no dropout module that drops anything.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
        >>> with mc_dropout(network):
        ...     [module.training for module in network]
        [False, True]
    """
    dropout = [module for module in network.modules() if isinstance(module, _DROPOUT) and module.p > 0]
    if not dropout:
        raise ValueError(
            f"`{type(network).__name__}` has no dropout module with p > 0, so that all Monte Carlo passes would agree;"
            " train it with dropout, for instance `dropout: 0.2`."
        )
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        for layer in dropout:
            layer.training = True
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def dropout_uncertainty(
    network: nn.Module,
    images: Tensor,
    probabilities: Callable[[Tensor], Tensor] | None = None,
    passes: int = 29,
    seed: int = 0,
    relative: bool = False,
) -> Tensor:
    """Measure how much a network's predictions for a batch vary under dropout.

    Args:
        network: A trained network with dropout. Its modes and statistics are left as they were.
        images: ``(n, C, H, W[, D])``, on the device of the network.
        probabilities: Maps images to probabilities ``(n, k, *spatial)`` with the network; the sigmoid of its output
            where ``None``.
        passes: :math:`t_{MC}`, at least 2.
        seed: Of the dropout masks; the state of the global generators is left as it was.
        relative: To what was seen of a class; see :func:`~lit_continual.functional.mc_uncertainty`.

    Returns:
        ``(n, k)``, see :func:`~lit_continual.functional.mc_uncertainty`.

    Raises:
        ValueError: If ``passes`` is below 2, or the network has no dropout.

    References:
        Ozdemir et al. Learn the New, Keep the Old. MICCAI 2018, section 2.2, with 29 passes.

    Example:
        >>> network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(1, 2, 1))
        >>> dropout_uncertainty(network, torch.ones(3, 1, 4, 4)).shape
        torch.Size([3, 2])
    """
    if passes < 2:
        raise ValueError(f"`passes` must be at least 2 for them to vary, got {passes}.")
    devices = [images.device] if images.is_cuda else []
    with mc_dropout(network), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        predict = probabilities or (lambda batch: network(batch).sigmoid())
        return mc_uncertainty(torch.stack([predict(images) for _ in range(passes)]), relative)
