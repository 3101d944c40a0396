import pytest
import torch
from torch import nn

from lit_continual.methods.tgd.producers import find_producers
from lit_continual.networks import DnCNN


def test_is_the_network_of_the_paper():
    network = DnCNN()
    layers = [[type(m) for m in block] for block in network.blocks]
    inner = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert layers == [[nn.Conv2d, nn.ReLU], *[inner] * 6, [nn.Conv2d]]
    convolutions = [block[0] for block in network.blocks]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(3, 64), *[(64, 64)] * 6, (64, 1)]
    assert {c.kernel_size for c in convolutions} == {(3, 3)}


def test_adds_what_it_predicts_to_the_middle_slice():
    network = DnCNN(in_channels=5, features=4, depth=3)
    nn.init.zeros_(network.blocks[-1][0].weight)
    nn.init.constant_(network.blocks[-1][0].bias, 0.5)
    x = torch.randn(2, 5, 9, 7)
    assert torch.equal(network(x), x[:, 2:3] + 0.5)


def test_every_kernel_but_the_last_can_be_scored():
    found = find_producers(DnCNN(features=4, depth=4))
    assert found.held == {("blocks.3.0.weight", 0)}
    assert [sorted(k) for k in found.layers["blocks.2.0.weight"].inputs] == [
        [("blocks.1.0.weight", n)] for n in range(4)
    ]
    assert not found.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 2}, "`in_channels` must be odd.*got 2"),
        ({"depth": 1}, "`depth` must be at least 2.*got 1 and 64"),
        ({"features": 0}, "`features` at least 1, got 8 and 0"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        DnCNN(**options)
