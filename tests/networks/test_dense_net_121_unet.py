import pytest
import torch
from monai.networks.nets import DenseNet121
from torch import nn
from torch.testing import assert_close

from lit_continual.methods.pretrained.load_pretrained import load_pretrained
from lit_continual.networks import DenseNet121UNet

NARROW = (8, 8, 8, 8, 4)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DenseNet121UNet(in_channels=1, out_channels=3, decoder_channels=NARROW).eval()


@pytest.mark.parametrize("size", [(64, 64), (33, 95), (1, 40)])
def test_every_size_keeps_its_size(network, size):
    with torch.no_grad():
        assert network(torch.rand(1, 1, *size)).shape == (1, 3, *size)


def test_it_is_deep_enough_for_384(network):
    with torch.no_grad():
        features = network.encoder(torch.zeros(1, 1, 384, 384))
    assert [tuple(f.shape[1:]) for f in features] == [
        (1, 384, 384),
        (64, 192, 192),
        (256, 96, 96),
        (512, 48, 48),
        (1024, 24, 24),
        (1024, 12, 12),
    ]


def test_padding_changes_nothing_where_none_is_needed(network):
    image = torch.rand(1, 1, 40, 64)
    padded = torch.cat([image, image[:, :, -1:].expand(-1, -1, 24, -1)], dim=2)
    with torch.no_grad():
        assert_close(network(image), network(padded)[..., :40, :], rtol=0, atol=0)


def test_the_encoder_is_monais(network):
    reference = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1).eval()
    load_pretrained(reference, network.encoder.state_dict())
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        features = network.encoder(image)
        assert_close(features[-1], reference.features(image).relu(), rtol=0, atol=0)
        assert_close(features[1], reference.features[:3](image), rtol=0, atol=0)
        transition = reference.features.transition1
        skip = transition.relu(transition.norm(reference.features[:5](image)))
        assert_close(features[2], skip, rtol=0, atol=0)
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"encoder", "decoder"}


def test_each_decoder_block_is_the_papers(network):
    for block in network.decoder.blocks:
        assert isinstance(block.up, nn.ConvTranspose2d)
        kinds = [type(layer) for layer in block.convolutions]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    network = DenseNet121UNet(1, 2, NARROW)
    network(torch.rand(2, 1, 64, 64)).square().mean().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_starts_from_torchvisions_weights():
    reference = DenseNet121(spatial_dims=2, in_channels=3, out_channels=1).features.state_dict()
    state = {"features." + key.replace(".layers.", "."): value for key, value in reference.items()}
    ours = DenseNet121UNet(1, 2, NARROW)
    report = load_pretrained(ours, state)
    last = "denseblock4.denselayer16.layers.conv2.weight"
    assert torch.equal(ours.encoder.features.get_parameter(last), reference[last])
    assert_close(ours.encoder.features.conv0.weight, reference["conv0.weight"].sum(1, keepdim=True))
    assert report.count("adapted") == 1
    assert {row.name.split(".")[0] for row in report.rows if row.outcome == "missing"} == {"decoder"}


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"5 blocks, got \[8, 8\]"):
        DenseNet121UNet(decoder_channels=[8, 8])
    with pytest.raises(ValueError, match="One image of 20 x 32 leaves a single value"):
        DenseNet121UNet(decoder_channels=NARROW).train()(torch.zeros(1, 1, 20, 32))
