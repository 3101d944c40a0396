import re

import pytest
import torch
from monai.networks.nets import DenseNet121
from torch import nn
from torch.testing import assert_close

from lit_continual.methods.pretrained.load_pretrained import load_pretrained

SMALL = {"init_features": 8, "growth_rate": 4, "block_config": (2, 2, 2, 2)}


def densenet(channels=1, classes=2, seed=0):
    torch.manual_seed(seed)
    return DenseNet121(spatial_dims=2, in_channels=channels, out_channels=classes, **SMALL).eval()


def torchvision_names(state, legacy=False):
    """The names that torchvision's DenseNet gives to the same tensors, in its modules or its older files."""
    name = lambda key: re.sub(r"\.layers\.(norm|conv)(\d)", r".\1.\2" if legacy else r".\1\2", key)  # noqa: E731
    return {name(key).replace("class_layers.out", "classifier"): value for key, value in state.items()}


@pytest.mark.parametrize("legacy", [False, True], ids=["torchvision", "torchvision's older files"])
def test_torchvision_names_of_a_densenet(legacy):
    source, target = densenet(seed=0), densenet(seed=1)
    state = torchvision_names(source.state_dict(), legacy)
    expected = "features.denseblock1.denselayer1." + ("norm.1.weight" if legacy else "norm1.weight")
    assert expected in state

    report = load_pretrained(target, state)

    image = torch.randn(2, 1, 64, 64)
    assert torch.equal(target.features(image), source.features(image))
    assert {r.name for r in report.rows if r.outcome == "missing"} == {
        "class_layers.out.weight",
        "class_layers.out.bias",
    }
    assert {r.source for r in report.rows if r.outcome == "skipped"} == {"classifier.weight", "classifier.bias"}
    assert report.count("renamed") == 8 * 12  # 8 dense layers of 2 norms (5 tensors each) and 2 convolutions


def test_monai_names_are_taken_as_they_are():
    source, target = densenet(seed=0), densenet(seed=1)
    report = load_pretrained(target, source.state_dict())
    assert report.count("taken") == len(source.state_dict()) == len(report.rows)
    assert_close(dict(target.state_dict()), dict(source.state_dict()), rtol=0, atol=0)


def test_an_encoder_under_other_prefixes():
    source = nn.ModuleDict({"encoder": densenet(seed=0), "decoders": nn.ModuleDict({"a": nn.Conv2d(2, 2, 1)})})
    target = nn.Module()
    target.network = nn.ModuleDict({"encoder": densenet(seed=1), "decoder": nn.Conv2d(2, 2, 1)})
    before = target.network["decoder"].weight.clone()
    report = load_pretrained(target, source.state_dict())
    assert_close(dict(target.network["encoder"].state_dict()), dict(source["encoder"].state_dict()), rtol=0, atol=0)
    assert torch.equal(target.network["decoder"].weight, before)
    assert {r.source for r in report.rows if r.outcome == "skipped"} == {"decoders.a.weight", "decoders.a.bias"}


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_first_convolution_answers_alike_to_an_image_of_equal_channels(channels):
    source, target = densenet(channels=3, seed=0), densenet(channels=channels, seed=1)
    report = load_pretrained(target, source.state_dict())
    grey = torch.randn(2, 1, 64, 64)
    assert_close(target(grey.expand(-1, channels, -1, -1)), source(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    assert [(r.name, r.why) for r in report.rows if r.outcome == "adapted"] == [
        ("features.conv0.weight", f"3 input channels became {channels}")
    ]


def test_other_resized_layers_are_left_and_named():
    source, target = densenet(classes=5, seed=0), densenet(classes=2, seed=1)
    before = target.class_layers.out.weight.clone()
    report = load_pretrained(target, source.state_dict())
    assert torch.equal(target.class_layers.out.weight, before)
    skipped = {r.name: r.why for r in report.rows if r.outcome == "skipped"}
    assert re.fullmatch(r"shape \(5, \d+\) in the file, \(2, \d+\) in the module", skipped["class_layers.out.weight"])
    assert "skipped" in str(report)
    assert skipped["class_layers.out.weight"] in str(report)


def test_the_table_of_a_large_network_fits_a_screen():
    source = DenseNet121(spatial_dims=2, in_channels=1, out_channels=2).state_dict()
    target = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3)
    lines = str(load_pretrained(target, torchvision_names(source))).splitlines()
    assert len(lines) <= 41
    assert any(re.match(r"renamed +72 +features\.denseblock1$", line) for line in lines)


def test_weights_of_another_architecture_are_refused():
    with pytest.raises(ValueError, match=r"no tensor that fits DenseNet121.*`layer1\.weight` for `features\.conv0"):
        load_pretrained(densenet(), {"layer1.weight": torch.ones(3)})
