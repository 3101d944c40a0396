"""The diagonal of the Fisher information, from single samples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from lit_continual.methods.bases.fit.precision import full_precision
from lit_continual.methods.bases.importance.sample_gradients import require_parameters, sample_gradients


def fisher_information(
    logits: Tensor,
    parameters: Mapping[str, Tensor],
    labels: Tensor | Literal["expected", "sampled"] = "expected",
    heads: Sequence[Sequence[int]] | Literal["sigmoid"] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    r"""Diagonal of the Fisher information of a classifier's parameters, the mean over samples.

    .. math:: F_i = \frac{1}{N} \sum_n \mathbb{E}_{y} \left(\frac{\partial}{\partial\theta_i}
        \frac{1}{V} \sum_v \log p(y_v \mid x_n)\right)^2

    with :math:`V` voxels, whose labels are independent given the image, 1 for a classifier. Each sample is
    differentiated on its own: the square of the gradient of a batch would be too small by up to the batch size. So the
    network must be in evaluation mode, where no sample has a part in what it answers on another.

    Args:
        logits: ``(N, C, *spatial)`` in the graph, or ``(N, C)``.
        parameters: :math:`\theta` by name, which require gradients.
        labels: What :math:`y` is: ``expected`` for the expectation over the network's own answers, exact for a
            classifier and of voxels an unbiased estimate with a random sign for each, by one gradient for each class;
            ``sampled`` for one draw from them, by one gradient; or the integers to take, ``(N, *spatial)``, which gives
            the empirical Fisher information.
        heads: Channels of each softmax, or ``"sigmoid"`` for independent classes; by default one softmax over all.
        generator: What labels and signs are drawn from.

    Returns:
        :math:`F` by name, never negative; 0 for a parameter that the logits do not depend on.

    Raises:
        ValueError: If there are no parameters, or labels are given for several heads.

    References:
        Kirkpatrick et al. Overcoming catastrophic forgetting in neural networks. PNAS 2017.

    Example:
        >>> w = torch.zeros(2, 1, requires_grad=True)
        >>> fisher_information(torch.ones(4, 1) @ w.T, {"w": w})
        {'w': tensor([[0.2500],
                [0.2500]])}
    """
    tensors = require_parameters(parameters)
    total = [torch.zeros_like(p) for p in tensors]
    for values in _log_likelihoods(full_precision(logits), labels, heads, generator):
        for gradient in sample_gradients(values, tensors):
            torch._foreach_addcmul_(total, gradient, gradient, value=1 / len(logits))
    return dict(zip(parameters, total, strict=True))


def _log_likelihoods(
    logits: Tensor,
    labels: Tensor | Literal["expected", "sampled"],
    heads: Sequence[Sequence[int]] | Literal["sigmoid"] | None,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    """Values of each sample, ``(N,)``, whose squared gradients sum up to the Fisher information."""
    of_heads = _log_probabilities(logits, heads)
    if isinstance(labels, Tensor):
        if len(of_heads) != 1:
            raise ValueError(f"`labels` of one head are given for {len(of_heads)}. Choose 'expected' or 'sampled'.")
        yield _mean(of_heads[0].gather(1, labels[:, None].long())[:, 0])
    elif labels == "sampled":
        drawn = [log_p.gather(1, _draw(log_p.detach(), generator)[:, None])[:, 0] for log_p in of_heads]
        yield torch.stack([_mean(part) for part in drawn]).sum(0)
    else:  # gradients of the log-likelihood have the expectation 0, so heads and voxels have no cross terms
        for log_p in of_heads:
            shape = log_p[:, 0].shape
            signs = torch.randint(2, shape, generator=generator, device=logits.device) * 2 - 1
            weights = signs[:, None] * log_p.detach().exp().sqrt()
            yield from (_mean(weights[:, c] * log_p[:, c]) for c in range(log_p.shape[1]))


def _log_probabilities(logits: Tensor, heads: Sequence[Sequence[int]] | str | None) -> list[Tensor]:
    """The log-probabilities of the classes of each head, ``(N, K, *spatial)``."""
    if heads == "sigmoid":
        return [torch.stack([logsigmoid(z), logsigmoid(-z)], 1) for z in logits.unbind(1)]
    groups = [range(logits.shape[1])] if heads is None else heads
    return [log_softmax(logits[:, list(group)], 1) for group in groups]


def _draw(log_p: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw a class for each voxel, ``(N, *spatial)``."""
    flat = log_p.movedim(1, -1).flatten(0, -2).exp().nan_to_num(1.0)  # of a network that is lost any label will do
    return torch.multinomial(flat, 1, generator=generator).view(log_p[:, 0].shape)


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1) if values.ndim > 1 else values
