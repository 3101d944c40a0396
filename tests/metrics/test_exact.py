"""What is computed in float64 is so on devices that have none, which the tests stand in for."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from lit_continual.denoising.region_statistics import coefficient_of_variation, ensemble_bias, ensemble_rmse
from lit_continual.functional import kernel_sparsity_entropy, maximum_coverage, maximum_coverage_of_features
from lit_continual.methods.bases.fit.frozen_entries import free_share
from lit_continual.methods.rehearsal.content_distance import pairwise_squared_distance, squared_norms
from lit_continual.methods.rehearsal.selection.herding import herding
from lit_continual.methods.tgd.channel_importance import ranks


class Apples(torch.Tensor):
    """A tensor that says it lies on a device without float64, and meets no tensor of the CPU."""

    device = property(lambda tensor: torch.device("mps"))

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            given = tree_leaves((args, kwargs))
            tensors = [isinstance(one, cls) for one in given if isinstance(one, torch.Tensor) and one.ndim]
            moves = function is torch.Tensor.cpu or (function is torch.Tensor.to and torch.device("cpu") in args)
        if moves:
            return args[0].as_subclass(torch.Tensor)
        if {*tensors} == {True, False}:
            raise RuntimeError(f"{function.__name__} of tensors on two devices")
        found = super().__torch_function__(function, types, args, kwargs)
        if any(isinstance(one, cls) and one.dtype == torch.float64 for one in tree_leaves(found)):
            raise TypeError(f"{function.__name__} gives float64 on a device that has none")
        return found


def apples(*tensors):
    return [one.as_subclass(Apples) for one in tensors]


def test_the_device_of_the_tests_has_no_float64():
    (x,) = apples(torch.ones(2))
    for forbidden in (lambda: x.double(), lambda: x.to(torch.float64), lambda: x + torch.ones(2)):
        with pytest.raises((TypeError, RuntimeError)):
            forbidden()
    assert type(x.cpu()) is type(x.to(torch.device("cpu"))) is torch.Tensor


MASK = torch.arange(8).view(2, 2, 2) > 2
LAYER = torch.nn.Linear(3, 2)
EXACT = {
    "herding": (lambda x: torch.tensor(herding(x, 3)), (6, 4)),
    "coverage of features": (lambda x: torch.tensor(maximum_coverage_of_features(x, 3)), (6, 4)),
    "coverage": (lambda x: torch.tensor(maximum_coverage(x, 3)), (6, 6)),
    "squared norms": (squared_norms, (3, 5)),
    "squared distances": (lambda x: pairwise_squared_distance(x, x + 1), (3, 5)),
    "squared distances of one": (lambda x: pairwise_squared_distance(x, x), (3, 5)),
    "kernel sparsity and entropy": (kernel_sparsity_entropy, (4, 3, 3, 3)),
    "ranks": (lambda x: ranks(x.abs()), (7,)),
    "share of what is free": (
        lambda x: torch.tensor(free_share(LAYER, {"weight": x > 0, "bias": x[:, 0] > 0})),
        (2, 3),
    ),
    "bias": (lambda x: ensemble_bias(x, x[0] + 1, mask_beside(x)), (5, 2, 2, 2)),
    "error": (lambda x: ensemble_rmse(x, x[0] + 1, mask_beside(x)), (5, 2, 2, 2)),
    "noise": (lambda x: coefficient_of_variation(x.abs(), mask_beside(x)), (5, 2, 2, 2)),
}


def mask_beside(tensor):
    return MASK.as_subclass(type(tensor))


@pytest.mark.parametrize("name", EXACT)
def test_it_is_exact_on_a_device_without_float64(name):
    function, shape = EXACT[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = function(*apples(x))
    assert type(found) is torch.Tensor
    assert_close(found, function(x), rtol=0, atol=0)
