"""Monte Carlo dropout: how certain a trained network is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lit_continual.methods.bases.fit.evaluated_layers import evaluating

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
    with evaluating(network):
        for layer in dropout:
            layer.training = True
        yield


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
        relative: To what was seen of a class; see :func:`mc_uncertainty`.

    Returns:
        ``(n, k)``, see :func:`mc_uncertainty`.

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


def mc_uncertainty(probabilities: Tensor, relative: bool = False) -> Tensor:
    r"""Mean over pixels of the variance over stochastic passes.

    .. math:: u_{n,k} = \frac{1}{|\Omega|} \sum_{x \in \Omega} \frac{1}{t} \sum_{\tau=1}^{t}
        \bigl(p_{\tau,n,k}(x) - \bar p_{n,k}(x)\bigr)^2

    The variance is that of the :math:`t` passes themselves (``ddof = 0``), so that one pass has uncertainty 0; the
    ranking of the samples does not depend on that choice. The lowest is the most certain.

    So a sample on which nothing is seen of a class is a certain one, whether the class is there or not. The relative
    uncertainty divides the variance by what was seen, :math:`\sum_x \bar p_{n,k}(x)^2`, and asks for certainty of the
    class's presence.

    Args:
        probabilities: ``(t, n, k, *spatial)``: :math:`t_{MC}` passes with dropout, samples, classes, pixels or voxels
            if there are any.
        relative: Divide the sum of the variances by that of the squared means, instead of by the number of pixels.

    Returns:
        ``(n, k)``, at least float32; relative to a class of probability 0 throughout, infinite.

    Raises:
        ValueError: If ``probabilities`` has fewer than three axes, or no pass.

    References:
        Gal and Ghahramani. Dropout as a Bayesian Approximation. ICML 2016. Used for exemplars in Ozdemir et al. Learn
        the New, Keep the Old. MICCAI 2018, section 2.2, which leaves the scalar open.

    Example:
        >>> passes = torch.tensor([[[[0.0, 1.0]]], [[[1.0, 1.0]]]])  # one of two pixels is undecided
        >>> mc_uncertainty(passes)
        tensor([[0.1250]])
        >>> mc_uncertainty(passes, relative=True)
        tensor([[0.2000]])
    """
    if probabilities.ndim < 3 or not len(probabilities):
        raise ValueError(
            "`probabilities` must have shape (t, n, k, *spatial) with at least one pass t, got"
            f" {tuple(probabilities.shape)}."
        )
    passes = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    passes = passes[..., None] if passes.ndim == 3 else passes.flatten(3)
    variance = passes.var(dim=0, correction=0)
    if not relative:
        return variance.mean(2)
    seen = passes.mean(0).square().sum(2)
    return (variance.sum(2) / seen).where(seen > 0, torch.inf)
