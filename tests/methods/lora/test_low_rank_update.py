import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lit_continual.functional import low_rank_update

LAYERS = {  # kernels of one voxel along some axes among them, which peft 0.21 does not merge in 3D
    "linear": (nn.Linear, (), (7, 5)),
    "2d": (nn.Conv2d, (3, 3), (2, 5, 6, 4)),
    "2d one": (nn.Conv2d, (1, 1), (2, 5, 6, 4)),
    "3d": (nn.Conv3d, (3, 3, 3), (2, 5, 4, 6, 3)),
    "3d flat": (nn.Conv3d, (1, 1, 3), (2, 5, 4, 6, 3)),
    "3d one": (nn.Conv3d, (1, 1, 1), (2, 5, 4, 6, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_the_update_is_the_layer_and_its_adapter(name):
    kind, kernel, shape = LAYERS[name]
    torch.manual_seed(0)
    more = {"padding": tuple(k // 2 for k in kernel)} if kernel else {}
    one = {"kernel_size": kernel} if kernel else {}
    down, layer = kind(5, 3, **one, **more, bias=False), kind(5, 4, **one, **more)
    up = kind(3, 4, **({"kernel_size": 1} if kernel else {}), bias=False)
    image = torch.randn(shape)
    expected = layer(image) + 6.0 / 3 * up(down(image))
    update = low_rank_update(down.weight, up.weight, alpha=6.0)
    with torch.no_grad():
        layer.weight += update
    assert_close(layer(image), expected, rtol=1e-4, atol=1e-5)
    assert torch.linalg.matrix_rank(update.double().flatten(1), rtol=1e-5) == 3


def test_half_precision_is_not_kept():
    down, up = torch.randn(2, 3, dtype=torch.bfloat16), torch.randn(4, 2, dtype=torch.bfloat16)
    assert_close(low_rank_update(down, up, 2.0), up.float() @ down.float())
