import os
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate
from torch.testing import assert_close

from lit_continual.networks import FCN8s

MEAN = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)


def save_weights(path, **changes):
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        state = FCN8s(3, head_channels=4).features.state_dict()
    weights = {f"features.{n}": 0.05 * torch.randn(w.shape, generator=generator) for n, w in state.items()}
    torch.save({**weights, **changes}, path)
    return str(path), weights


@pytest.mark.parametrize("size", [(32, 32), (33, 70), (5, 64)])
def test_any_size_comes_back(size):
    assert FCN8s(2, 3, head_channels=4).eval()(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_upsampling_starts_as_bilinear_interpolation():
    net = FCN8s(1, 3, head_channels=4)
    x = torch.randn(1, 3, 6, 6)
    for layer, factor in ((net.double5, 2), (net.eightfold, 8)):
        inside = (..., slice(factor, -factor), slice(factor, -factor))
        assert_close(layer(x)[inside], interpolate(x, scale_factor=factor, mode="bilinear")[inside])


def test_starts_at_zero_and_all_of_it_learns():
    torch.manual_seed(0)
    net = FCN8s(1, 2, head_channels=32)
    image = torch.randn(1, 1, 32, 32)
    assert_close(net(image), torch.zeros(1, 2, 32, 32))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (net(image) - 1).square().mean().backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for n, p in net.named_parameters() if n != "head.0.bias")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_same_picture_in_all_channels_answers_as_grey_did(tmp_path, channels):
    file, weights = save_weights(tmp_path / "vgg.pth")
    net = FCN8s(channels, head_channels=4, weights=file)
    grey = torch.rand(1, 1, 8, 8) * 2 - 1
    rgb = grey * torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)  # z-scored grey in units of the weights
    expected = torch.conv2d(rgb, weights["features.0.weight"], weights["features.0.bias"], padding=1)
    assert_close(net.features[0](grey.repeat(1, channels, 1, 1)), expected, rtol=1e-4, atol=1e-3)
    assert_close(net.features[28].weight, weights["features.28.weight"])


def test_names_a_file_without_the_convolutions(tmp_path):
    with pytest.raises(ValueError, match=r"there is none at .*missing\.pth"):
        FCN8s(weights=str(tmp_path / "missing.pth"), head_channels=4)
    file, _ = save_weights(tmp_path / "vgg.pth", **{"features.5.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"vgg\.pth does not hold.*features\.5\.weight.*\(128, 64, 3, 3\)"):
        FCN8s(weights=file, head_channels=4)


@pytest.mark.slow
@pytest.mark.skipif("LIT_CONTINUAL_DATA" not in os.environ, reason="needs LIT_CONTINUAL_DATA")
def test_imagenet_weights_load_and_keep_activations_in_bounds():
    file = Path(os.environ["LIT_CONTINUAL_DATA"]) / "weights" / "vgg16_features_imagenet_rgb_fp16.pth"
    net = FCN8s(4, head_channels=16, weights=str(file)).eval()
    with torch.no_grad():
        activations = net.features(torch.randn(1, 1, 64, 64).repeat(1, 4, 1, 1))
    assert 0 < activations.std() < 100
