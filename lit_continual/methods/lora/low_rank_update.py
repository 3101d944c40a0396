"""The update of a weight by two thin matrices."""

from torch import Tensor

from lit_continual.methods.bases.fit.precision import full_precision


def low_rank_update(down: Tensor, up: Tensor, alpha: float) -> Tensor:
    r"""Return what an adapter adds to the weight of its layer, :math:`\Delta W = \frac{\alpha}{r} B A`.

    A convolution is a matrix of its outputs by its inputs times its kernel; :math:`A` is then a convolution to
    :math:`r` channels and :math:`B` one of a single voxel behind it. The rank of :math:`\Delta W` is :math:`r` at most.

    Args:
        down: :math:`A`, ``(r, in, *kernel)``.
        up: :math:`B`, ``(out, r)``, or of a convolution ``(out, r, 1, …)``.
        alpha: :math:`\alpha`.

    Returns:
        :math:`\Delta W`, ``(out, in, *kernel)``, at least in single precision.

    References:
        Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022, eq. 3.

    Example:
        >>> import torch
        >>> low_rank_update(torch.ones(2, 3), torch.ones(1, 2), alpha=4.0)
        tensor([[4., 4., 4.]])
    """
    product = full_precision(up).flatten(1) @ full_precision(down).flatten(1)
    return (alpha / len(down) * product).view(len(up), *down.shape[1:])
