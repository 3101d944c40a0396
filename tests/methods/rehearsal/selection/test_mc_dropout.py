import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lit_continual.functional import mc_uncertainty
from lit_continual.methods.rehearsal.selection.mc_dropout import dropout_uncertainty, mc_dropout


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(0.5), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, 2, 1)]
    network = nn.Sequential(*layers, nn.Identity())
    network.train()
    network[1].eval()  # a frozen layer among trained ones
    return network


def modes(network):
    return [module.training for module in network.modules()]


def test_only_dropout_is_random(network):
    with mc_dropout(network):
        assert [type(m) for m in network.modules() if m.training] == [nn.Dropout2d, nn.Dropout]


@pytest.mark.parametrize("fails", [False, True], ids=["after use", "after an exception"])
def test_leaves_modes_and_statistics_as_they_were(network, fails):
    before, state = modes(network), copy.deepcopy(network.state_dict())
    network[6].register_forward_hook(lambda *args: 1 / 0 if fails else None)
    if fails:
        with pytest.raises(ZeroDivisionError):
            dropout_uncertainty(network, torch.rand(3, 1, 6, 6))
    else:
        dropout_uncertainty(network, torch.rand(3, 1, 6, 6))
    assert modes(network) == before
    assert_close(network.state_dict(), state, rtol=0, atol=0)


def test_is_the_variance_of_passes_made_by_hand(network):
    images = torch.rand(3, 1, 6, 6)
    network.eval()
    network[2].train(), network[4].train()
    torch.manual_seed(5)
    passes = torch.stack([network(images).softmax(1) for _ in range(4)]).detach()
    result = dropout_uncertainty(network, images, lambda x: network(x).softmax(1), passes=4, seed=5)
    assert_close(result, mc_uncertainty(passes))
    assert (result > 0).all()


def test_does_not_disturb_the_random_numbers_of_training(network):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    dropout_uncertainty(network, torch.ones(1, 1, 6, 6), passes=2)
    assert torch.equal(torch.rand(3), expected)


def test_refuses_what_cannot_vary(network):
    with pytest.raises(ValueError, match=r"`Conv2d` has no dropout module with p > 0"):
        dropout_uncertainty(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"has no dropout module with p > 0"), mc_dropout(nn.Dropout(0.0)):
        pass
    with pytest.raises(ValueError, match="`passes` must be at least 2 for them to vary, got 1"):
        dropout_uncertainty(network, torch.zeros(1, 1, 6, 6), passes=1)
