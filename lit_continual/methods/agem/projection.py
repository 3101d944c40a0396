"""The projection of A-GEM."""

import torch
from torch import Tensor


def project_gradient(gradient: Tensor, reference: Tensor) -> Tensor:
    r"""Take from a gradient what would make the loss of another one worse.

    .. math:: \tilde g = g - \frac{g^\top g_{ref}}{g_{ref}^\top g_{ref}}\, g_{ref} \quad \text{if } g^\top g_{ref} < 0,
        \qquad \tilde g = g \text{ otherwise}

    Of all directions along which the other loss does not grow, :math:`\tilde g` is the nearest to :math:`g`. The length
    of the reference does not matter.

    Args:
        gradient: :math:`g`, of any shape: all parameters together.
        reference: :math:`g_{ref}`, of the same shape.

    Returns:
        :math:`\tilde g`; the gradient itself where the two agree, or the reference is zero or not finite.

    Raises:
        ValueError: If the shapes differ.

    References:
        Chaudhry et al. Efficient Lifelong Learning with A-GEM. ICLR 2019, eq. 11.

    Example:
        >>> project_gradient(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))
        tensor([1., 0.])
    """
    if gradient.shape != reference.shape:
        raise ValueError(
            f"`gradient` has shape {tuple(gradient.shape)} and `reference` {tuple(reference.shape)}: give the same"
            " parameters in the same order."
        )
    g, unit = gradient.flatten(), reference.flatten() / reference.abs().max()  # squares of small numbers would vanish
    product = g @ unit
    return torch.where(product < 0, g - product / (unit @ unit) * unit, g).view_as(gradient)
