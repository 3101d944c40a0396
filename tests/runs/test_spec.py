import pytest
import torch
from monai.transforms import RandFlipd

from lit_continual.runs.spec import build

NN = ["torch.nn"]


def test_by_bare_name_and_by_class_path():
    first = build({"_target_": "Linear", "in_features": 3, "out_features": 2}, NN)
    second = build({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}, [])
    assert type(first) is type(second) is torch.nn.Linear
    assert isinstance(build("ReLU", NN), torch.nn.ReLU)
    flip = build({"_target_": "RandFlipd", "keys": ["image"], "prob": 0.3}, ["monai.transforms"])
    assert isinstance(flip, RandFlipd)
    assert flip.prob == 0.3


def test_the_first_package_that_has_it_wins():
    assert build("Linear", ["no.such.package", "torch.nn.modules.linear", "torch.nn"], in_features=1, out_features=1)


def test_overrides_come_last_and_the_spec_is_left_alone():
    spec = {"_target_": "Linear", "in_features": 3, "out_features": 2}
    assert build(spec, NN, out_features=7).out_features == 7
    assert spec == {"_target_": "Linear", "in_features": 3, "out_features": 2}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"in_features": 3}, r"does not say what to build. Name a class under `_target_`"),
        ("Liner", r"There is no `Liner` in torch.nn. Correct `_target_: Liner`"),
        ("no.such.Thing", r"There is no `Thing` in no.such"),
        ("torch.nn.Liner", r"There is no `Liner` in torch.nn"),
        ({"_target_": "Linear", "features": 3}, r"`Linear` has no argument `features`. It takes in_features, out_"),
        (
            {"_target_": "Linear", "in_features": 3},
            r"`Linear` cannot be built from {'in_features': 3} \(.*out_features",
        ),
        ({"_target_": "Linear", "in_features": "a", "out_features": 1}, r"`Linear` cannot be built from"),
        ({"_target_": 3}, r"`_target_` must be a name, got 3"),
    ],
)
def test_what_cannot_be_built(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec, NN)
