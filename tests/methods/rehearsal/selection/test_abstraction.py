import pytest
import torch
from monai.networks.nets import UNet
from torch import nn
from torch.testing import assert_close

from lit_continual.methods.rehearsal.selection.abstraction import abstraction, layer_activations


def hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5))


def test_averages_the_layer_over_space(network):
    images = torch.rand(3, 1, 7, 5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = abstraction(network, "1", images)
    assert network.training
    assert_close(network.state_dict(), before, rtol=0, atol=0)
    network.eval()
    assert_close(result, network[1](network[0](images)).mean((2, 3)).detach())
    assert hooks(network) == 0


@pytest.mark.parametrize(("dimensions", "size"), [(2, (32, 32)), (3, (16, 16, 16))])
def test_reads_any_layer_of_a_monai_network(dimensions, size):
    network = UNet(dimensions, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=0)
    coarsest = next(name for name, module in network.named_modules() if getattr(module, "out_channels", 0) == 16)
    assert abstraction(network, coarsest, torch.rand(2, 1, *size)).shape == (2, 16)


def test_cleans_up_after_an_exception(network):
    network.append(nn.Linear(99, 1))
    with pytest.raises(RuntimeError):
        layer_activations(network, ["0", "1"], torch.rand(1, 1, 7, 5))
    assert hooks(network) == 0
    assert all(module.training for module in network.modules())


def test_several_layers_in_the_order_asked_for(network):
    last, first = layer_activations(network, ["2", "0"], torch.rand(1, 1, 7, 5))
    assert (last >= 0).all()
    assert (first < 0).any()


def test_a_layer_without_space_is_itself():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    images = torch.rand(2, 1, 2, 2)
    assert_close(abstraction(network, "1", images), network(images).detach())


def test_names_what_is_wrong(network):
    with pytest.raises(ValueError, match=r"`Sequential` has no layer `body.1`; the nearest names are"):
        abstraction(network, "body.1", torch.rand(1, 1, 7, 5))
    idle = nn.ModuleDict({"used": nn.Identity(), "idle": nn.Identity()})
    idle.forward = lambda x: idle["used"](x)
    with pytest.raises(ValueError, match="Layer `idle` was not called by `ModuleDict`"):
        abstraction(idle, "idle", torch.rand(1, 1, 2, 2))
    pair = nn.Sequential(nn.Identity())
    with pytest.raises(ValueError, match="Layer `0` puts out a tuple, not a tensor"):
        abstraction(pair, "0", (1, 2))
