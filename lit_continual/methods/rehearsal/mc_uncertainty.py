"""Uncertainty from Monte Carlo dropout."""

import torch
from torch import Tensor


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
