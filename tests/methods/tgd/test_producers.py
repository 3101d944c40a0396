import copy
import inspect
from functools import cache, partial

import pytest
import torch
from monai.networks.nets import BasicUNet, DenseNet, SegResNet, UNet
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import activation

from lit_continual.methods.tgd.producers import find_producers


def made_by(producers, layer):
    """For each input channel of a layer, its makers as sorted `name:index`."""
    return [" ".join(sorted(f"{w.removesuffix('.weight')}:{n}" for w, n in k)) for k in producers.layers[layer].inputs]


def whole(layer, channels):
    return [f"{layer}:{n}" for n in range(channels)]


class Net(nn.Module):
    """Convolutions `a`, `b`, `c` and others, wired by a function."""

    def __init__(self, wiring, **layers):
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.wiring(self, x)


def conv(i, o, **options):
    return nn.Conv2d(i, o, 3, padding=1, **options)


def test_chain_through_norm_activation_pooling_dropout_and_interpolation():
    steps = [nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout2d(), nn.PReLU(4)]
    steps += [nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.InstanceNorm2d(4, affine=True), nn.AvgPool2d(2)]
    steps += [nn.GroupNorm(2, 4), nn.GELU(), nn.AdaptiveMaxPool2d(8), nn.Hardswish(), nn.AlphaDropout(), nn.SiLU()]
    found = find_producers(nn.Sequential(conv(1, 4), *steps, conv(4, 2)))
    assert made_by(found, "16.weight") == whole("0", 4)
    affine = {"1.weight", "1.bias", "1.running_mean", "1.running_var", "8.weight", "8.bias", "10.weight", "10.bias"}
    assert set(found.affine) == affine
    assert all(flow == found.layers["16.weight"].inputs for flow in found.affine.values())
    assert found.held == {("16.weight", 0), ("16.weight", 1)}
    assert found.notes == []


MIXING = {"GLU", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax"}  # what is no activation of each
ACTIVATIONS = [getattr(nn, name) for name in activation.__all__ if name not in MIXING]
IN_PLACE = [one for one in ACTIVATIONS if "inplace" in inspect.signature(one).parameters]


@pytest.mark.parametrize(
    "layer", [*ACTIVATIONS, *(partial(one, inplace=True) for one in IN_PLACE)], ids=lambda one: str(one).split(".")[-1]
)
def test_every_activation_is_followed(layer):
    made = layer(0.1, 20.0) if "Threshold" in str(layer) else layer()
    found = find_producers(nn.Sequential(conv(1, 4), made, conv(4, 2)))
    assert made_by(found, "2.weight") == whole("0", 4)
    assert found.notes == []


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_concatenation_keeps_its_order(order):
    def wiring(net, x):
        made = {"a": net.a(x), "b": net.b(x)}
        return net.c(torch.cat([made[name] for name in order], dim=1))

    found = find_producers(Net(wiring, a=conv(1, 2), b=conv(1, 3), c=conv(5, 1)))
    expected = {"a": whole("a", 2), "b": whole("b", 3)}
    assert made_by(found, "c.weight") == expected[order[0]] + expected[order[1]]


def test_a_residual_sum_has_two_makers_a_channel_and_several_readers_are_all_known():
    def wiring(net, x):
        y = net.a(x)
        return net.d(torch.relu(y + net.b(y))) + net.c(y)

    found = find_producers(Net(wiring, a=conv(1, 3), b=conv(3, 3), c=conv(3, 1), d=conv(3, 1)))
    assert made_by(found, "d.weight") == [f"a:{n} b:{n}" for n in range(3)]
    assert made_by(found, "b.weight") == made_by(found, "c.weight") == whole("a", 3)
    assert found.held == {("c.weight", 0), ("d.weight", 0)}


def test_slices_splits_chunks_and_broadcasts():
    def wiring(net, x):
        y = net.a(x)
        first, second = y.split([1, 3], dim=1)
        left, right = y.chunk(2, dim=1)
        gate = torch.sigmoid(net.b(y))  # one channel for all
        return net.c(torch.cat([second, first, right * left, gate * y[:, 1:4:2]], 1))

    found = find_producers(Net(wiring, a=conv(1, 4), b=conv(4, 1), c=conv(8, 1)))
    expected = ["a:1", "a:2", "a:3", "a:0", "a:0 a:2", "a:1 a:3", "a:1 b:0", "a:3 b:0"]
    assert made_by(found, "c.weight") == expected


def test_transposed_and_one_and_three_dimensional():
    up = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ConvTranspose3d(4, 2, 2, 2), nn.Conv3d(2, 1, 1))
    found = find_producers(up)
    assert found.layers["1.weight"].transposed
    assert made_by(found, "2.weight") == whole("1", 2)
    assert made_by(find_producers(nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 1, 3))), "1.weight") == whole("0", 4)


NETWORKS = {
    "UNet": lambda: UNet(2, 1, 2, (4, 8, 16), (2, 2), num_res_units=2, norm="batch", dropout=0.1),
    "UNet plain": lambda: UNet(2, 1, 2, (4, 8, 16), (2, 2)),
    "BasicUNet": lambda: BasicUNet(2, 1, 2, (4, 4, 8, 8, 16, 4), norm="batch"),
    "BasicUNet nontrainable": lambda: BasicUNet(2, 1, 2, (4, 4, 8, 8, 16, 4), upsample="nontrainable"),
    "SegResNet": lambda: SegResNet(2, 4, 1, 2, norm=("instance", {"affine": True}), blocks_down=(1, 2), blocks_up=(1,)),
    "DenseNet": lambda: DenseNet(2, 1, 2, init_features=4, growth_rate=2, block_config=(2, 2), bn_size=2),
}


class Probe:
    """The truth, by trying it: convolutions return fixed tensors, so a reader sees what it reads directly."""

    def __init__(self, network):
        self.network = network.eval()
        self.modules = {f"{n}.weight": m for n, m in network.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}
        self.fixed, self.read = {}, {}
        for name, module in self.modules.items():
            module.register_forward_hook(partial(self.convolve, name))
        self.x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        self.unchanged = self.run()

    def convolve(self, name, module, args, output):
        self.read[name] = args[0].detach().clone()
        return self.fixed.setdefault(name, torch.rand_like(output)).clone()

    def run(self):
        with torch.no_grad():
            self.network(self.x)
        return dict(self.read)

    def readers(self, name, n):
        """All `(reader, input channel)` that change when kernel `n` of layer `name` makes something else."""
        kept = self.fixed[name]
        self.fixed[name] = kept.clone()
        self.fixed[name][:, n] += 1 + torch.rand_like(kept[:, n])
        now, self.fixed[name] = self.run(), kept
        changed = {
            reader: (now[reader] != before).transpose(0, 1).flatten(1).any(1)
            for reader, before in self.unchanged.items()
        }
        return {(reader, c) for reader, channels in changed.items() for c in channels.nonzero().flatten().tolist()}


@cache
def built(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    return network, find_producers(network)


@pytest.mark.parametrize("name", NETWORKS)
def test_monai_networks_against_trying_it(name):
    network, found = built(name)
    probe = Probe(copy.deepcopy(network))
    assert set(found.layers) == set(probe.modules)  # every convolution of these networks can be scored
    for weight in found.layers:
        last = probe.modules[weight].out_channels - 1
        for n in {0, last // 2, last}:
            told = {
                (reader, c)
                for reader, layer in found.layers.items()
                for c, kernels in enumerate(layer.inputs)
                if (weight, n) in kernels
            }
            assert told == probe.readers(weight, n), f"{weight}[{n}]"


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_last_layers_of_monai_networks_are_held(name):
    found = built(name)[1]
    layers = list(found.layers)
    last = {w for w, _ in found.held}
    if name == "DenseNet":  # its features go on into a linear layer
        assert len(found.notes) == 1
        assert "`flatten`, which reads them, is not followed" in found.notes[0]
    elif name != "UNet":  # whose last residual unit also ends in the sum of a convolution and an identity
        assert last == {layers[-1]}
        assert not found.notes


class Guarded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(2, 3), conv(3, 1)
        self.scale = torch.ones(1)  # not a buffer, so fake tensors do not know it

    def forward(self, x, *, deep=False):
        if x.shape[-1] % 2:
            raise RuntimeError("odd")
        return {"out": self.b(self.a(x) * self.scale), "deep": [deep]}


def test_falls_back_to_a_real_pass_and_takes_keyword_arguments():
    for example in (None, {"x": torch.zeros(1, 2, 6, 6), "deep": True}, (torch.zeros(1, 2, 6, 6),)):
        assert made_by(find_producers(Guarded(), example), "b.weight") == whole("a", 3)


def test_leaves_the_network_as_it_was():
    network = nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), conv(4, 1))
    network[1].eval()
    before = copy.deepcopy(network.state_dict())
    find_producers(network)
    assert [m.training for m in network.modules()] == [True, True, False, True]
    torch.testing.assert_close(dict(network.state_dict()), dict(before), atol=0, rtol=0)


def shared(net, x):
    return net.c(net.b(net.b(net.a(x))))


def in_place(net, x):
    y = net.a(x)
    y[:, :2] += net.b(y)[:, :2]
    return net.c(y)


def in_part(net, x):
    y = net.a(x)
    y.chunk(2, dim=1)[0].mul_(net.b(y)[:, 2:])
    return net.c(y)


def computed(net, x):
    return net.c(F.conv2d(net.b(net.a(x)), net.free * 2, padding=1))


def linear(net, x):
    return net.c(net.linear(net.b(net.a(x)).transpose(1, 3)).transpose(1, 3))


UNFOLLOWED = {
    "grouped": (lambda net, x: net.c(net.b(net.a(x))), conv(4, 4, groups=2), {"a"}, "a convolution that is grouped"),
    "depthwise": (lambda net, x: net.c(net.b(net.a(x))), conv(4, 4, groups=4), {"a"}, "a convolution that is grouped"),
    "shared": (shared, conv(4, 4), {"a"}, "a convolution that is used more than once"),
    "in place": (in_place, conv(4, 4), {"a", "b"}, "`add_`, which reads them, is not followed"),
    "in a part": (in_part, conv(4, 4), {"a", "b"}, "`mul_`, which reads them, is not followed"),
    "computed weight": (computed, conv(4, 4), {"b"}, "a convolution whose weight is computed reads them"),
    "linear": (linear, conv(4, 4), {"b"}, "`transpose`, which reads them, is not followed"),
    "shuffled": (lambda net, x: net.c(net.b(net.a(x)).flip(1)), conv(4, 4), {"b"}, "`flip`, which reads them"),
}


@pytest.mark.parametrize("case", UNFOLLOWED)
def test_what_cannot_be_followed_is_held_with_a_line(case):
    wiring, b, held, reason = UNFOLLOWED[case]
    network = Net(wiring, a=conv(1, 4), b=b, c=conv(4, 1), linear=nn.Linear(4, 4))
    network.free = nn.Parameter(torch.ones(4, 4, 3, 3))
    found = find_producers(network)
    assert held <= {weight.removesuffix(".weight") for weight, _ in found.held}
    assert any(reason in line for line in found.notes)
    if case in ("grouped", "depthwise", "shared"):
        assert "b.weight" not in found.layers
    if case != "in place" and case != "in a part":
        assert made_by(found, "c.weight") == [""] * 4  # nobody is said to have made them


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(2, 2), "`Linear` holds no convolution"),
        (Net(lambda net, x: net.a(x) if x.sum() > 0 else x, a=conv(1, 1)), r"`Net` could not be traced.*submodule"),
        (Net(lambda net, x, y: net.a(x) + y, a=conv(1, 1)), r"`Net` could not be traced.*example_input_array"),
    ],
)
def test_bad_input(network, message):
    with pytest.raises(ValueError, match=message):
        find_producers(network)
