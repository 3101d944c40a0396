import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d
from torch.testing import assert_close

from lit_continual.networks import VGG16Features

DATA = os.environ.get("LIT_CONTINUAL_DATA")
CONVOLUTIONS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
MEANS = {"oxford": [123.68, 116.779, 103.939], "torchvision": [0.485, 0.456, 0.406]}


def by_hand(state, signal):
    """The chain of convolutions as the paper's table D lists it."""
    result = []
    for block in ([0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]):
        for i in block:
            signal = conv2d(signal, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1).clamp_min(0)
            result.append(signal)
        signal = max_pool2d(signal, 2)
    return result


@pytest.fixture
def network():
    torch.manual_seed(0)
    return VGG16Features("random")


@pytest.fixture
def images():
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 4000 - 1000


def test_activations_are_those_of_the_chain_written_by_hand(network, images):
    expected = by_hand(network.state_dict(), network.normalise(images))
    assert [tuple(a.shape[1:]) for a in expected][-1] == (512, 2, 2)
    assert_close(network(images), expected)
    assert_close(list(network.activations(images)), expected)


def test_has_the_published_names_and_nothing_to_train(network):
    assert list(network.state_dict()) == [f"features.{i}.{kind}" for i in CONVOLUTIONS for kind in ("weight", "bias")]
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("convention", ["oxford", "torchvision"])
def test_maps_any_intensities_to_the_input_of_the_weights(convention, images):
    network = VGG16Features("random", convention)
    mean = torch.tensor(MEANS[convention]).view(3, 1, 1)
    unit = torch.stack([(image - image.min()) / (image.max() - image.min()) for image in images])
    expected = (
        unit * 255 - mean
        if convention == "oxford"
        else (unit - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    )
    assert_close(network.normalise(images), expected.expand(2, 3, 32, 32), rtol=1e-5, atol=1e-4)
    assert_close(network.normalise(images * 7 + 3), network.normalise(images), rtol=1e-4, atol=1e-3)


def test_channels_of_a_colour_image_keep_their_proportions():
    image = torch.zeros(1, 3, 1, 2)
    image[0, :, 0, 1] = torch.tensor([1.0, 2.0, 4.0])
    bright = VGG16Features("random").normalise(image)[0, :, 0, 1]
    assert_close(bright, torch.tensor([255 / 4, 255 / 2, 255.0]) - torch.tensor(MEANS["oxford"]))


def test_an_image_of_one_intensity_is_finite(network):
    flat = torch.full((1, 1, 32, 32), 7)
    assert_close(network.normalise(flat)[0, :, 0, 0], -torch.tensor(MEANS["oxford"]))
    assert all(torch.isfinite(a).all() for a in network(flat))


def test_loads_a_file_in_half_precision_and_leaves_out_the_classifier(network, tmp_path):
    state = {name: value.half() for name, value in network.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    loaded = VGG16Features(tmp_path / "vgg.pth").state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in state.items())


def test_takes_the_published_file_from_the_cache(network, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / "vgg16-397923af.pth")
    cached = VGG16Features(convention="torchvision")
    assert torch.equal(cached.features[0].weight, network.features[0].weight)


def test_downloads_with_a_checksum(network, tmp_path, monkeypatch):
    def download(url, file, hash_prefix, progress):
        assert (url, hash_prefix) == ("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af")
        torch.save(network.state_dict(), file)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert torch.equal(VGG16Features(convention="torchvision").features[0].weight, network.features[0].weight)


def test_without_file_and_network_says_how_to_get_the_weights(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(FileNotFoundError, match=r"amdegroot.*no route to host.*copy the file here.*`weights`"):
        VGG16Features()


def test_refuses_what_it_cannot_use(network, tmp_path, images):
    with pytest.raises(FileNotFoundError, match=r"no VGG16 weights at .*none\.pth.*copy the file here"):
        VGG16Features(tmp_path / "none.pth")
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth` should hold `features.0.weight` .* found \(64, 1, 3, 3\)"):
        VGG16Features(tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"`convention` must be one of .* got 'bgr'"):
        VGG16Features("random", "bgr")
    with pytest.raises(ValueError, match=r"must have shape \(n, 1 or 3, H, W\), got \(2, 4, 8, 8\)"):
        network(torch.zeros(2, 4, 8, 8))


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="needs LIT_CONTINUAL_DATA")
def test_published_weights_see_edges():
    network = VGG16Features(Path(DATA) / "weights" / "vgg16_features_imagenet_rgb_fp16.pth")
    edge = torch.zeros(1, 1, 64, 64)
    edge[..., 32:] = 1
    layers = network(torch.cat([edge, edge.flip(-1), edge.mT]))
    assert all(torch.isfinite(a).all() and (a > 0).any() for a in layers)
    inside, at_edge = layers[1][0, :, 20:40, 10], layers[1][0, :, 20:40, 31]
    assert (at_edge - inside).abs().mean() > 0.1 * inside.abs().mean()
