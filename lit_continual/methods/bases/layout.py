"""How the weights of convolutions lie in memory, and so how they compute."""

import torch
from torch import device, nn
from torch.nn.modules.instancenorm import _InstanceNorm

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: Layout of the weight of a convolution, by its axes.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def lay_channels_last(module: nn.Module) -> list[nn.Parameter]:
    """Lay the weights of convolutions with the channels last in memory, and return those that lay otherwise."""
    laid = []
    for layer in module.modules():
        for weight in layer.parameters(recurse=False) if isinstance(layer, CONVOLUTIONS) else ():
            layout = FORMATS.get(weight.ndim)
            if layout and weight.is_contiguous() and not weight.is_contiguous(memory_format=layout):
                weight.data = weight.data.contiguous(memory_format=layout)
                laid.append(weight)
    return laid


def lay_for_evaluation(module: nn.Module, where: device) -> None:
    """Lay a network that only evaluates as it is fastest on a processor, where its passes take a third less time.

    Instance normalisation turns each image back, which costs what the convolutions win. On a GPU it depends on the
    precision, and the user says how weights lie. Sums are taken in another order, so a distance to a network that lies
    otherwise is not exactly 0 where the weights are the same, and the gradient of a norm there is noise.

    Args:
        module: The network, which nothing trains.
        where: Its device.
    """
    if where.type == "cpu" and not any(isinstance(layer, _InstanceNorm) for layer in module.modules()):
        lay_channels_last(module)
