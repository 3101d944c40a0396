"""On a CPU in bfloat16, convolutions over maps of one or two voxels have the gradient of single precision.

Memory is filled with a number before each pass, and given back: what is read without having been written shows it.
"""

import pytest
import torch
from torch import nn

from lit_continual.modules import Segmenter
from lit_continual.networks.small_maps import small_maps_exactly

LAYERS = {"convolution": (nn.Conv2d, nn.Conv3d), "transposed": (nn.ConvTranspose2d, nn.ConvTranspose3d)}
SHAPES = [(1, 1), (2, 1), (1, 1, 1), (1, 2, 1), (2, 1, 2), (2, 2, 2), (2, 4, 3), (3, 1, 3), (4, 4, 4)]


def spoil_memory():
    spoilt = [torch.full((2**power,), 1000.0) for power in range(4, 20) for _ in range(3)]
    del spoilt


def relative(found, wanted):
    return float((found.detach().float() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.mark.parametrize("is_mixed", [True, False], ids=["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_single_precision(kind, shape, stride, is_mixed):
    torch.manual_seed(0)
    layer = LAYERS[kind][len(shape) - 2](32, 32, 3, stride, padding=1)
    image = torch.randn(2, 32, *shape)
    wanted = layer(image)
    error = torch.randn_like(wanted)
    (wanted * error).sum().backward()
    gradient = layer.weight.grad
    if not is_mixed:
        layer, image = layer.bfloat16(), image.bfloat16()
    for _ in range(3):
        layer.weight.grad = None
        spoil_memory()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed), small_maps_exactly(image):
            answer = layer(image)
        assert answer.dtype == torch.bfloat16
        spoil_memory()
        (answer.float() * error).sum().backward()
        assert relative(answer, wanted) < 0.02
        assert relative(layer.weight.grad, gradient) < 0.02


def test_a_segmenter_whose_lowest_maps_are_small_is_trained_on_numbers():
    network = {"class_path": "BasicUNet", "init_args": {"spatial_dims": 3, "features": [8, 8, 16, 16, 32, 8]}}
    module = Segmenter(network, features=8, heads=[["organ"]])
    image = torch.randn(2, 1, 32, 32, 32)
    module(image).square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in module.parameters())
    for _ in range(3):
        module.zero_grad()
        spoil_memory()
        with torch.autocast("cpu", torch.bfloat16):
            logits = module(image)
        spoil_memory()
        logits.float().square().mean().backward()
        assert all(bool(p.grad.isfinite().all()) for p in module.parameters())
        assert max(float(p.grad.abs().max()) for p in module.parameters()) < 10 * largest


def test_nothing_changes_elsewhere():
    image = torch.zeros(1, 1, 2, 2)
    for context in (small_maps_exactly(image), small_maps_exactly(image.to("meta"))):
        assert type(context).__name__ == "nullcontext"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert type(small_maps_exactly(image)).__name__ == "nullcontext"
