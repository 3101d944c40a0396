import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from lit_continual.functional import local_pod_distance


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_golden_values(golden, dims):
    numbers = {k: torch.from_numpy(v) for k, v in golden("pod").items()}
    found = local_pod_distance(numbers[f"{dims}/a"], numbers[f"{dims}/b"], (1, 2, 4))
    assert_close(found, numbers[f"{dims}/distance"], rtol=1e-12, atol=0)


def embedding(maps, scales):
    """Written out for one sample: for each axis, each slice of it in each column of windows, on average."""
    parts, sizes = [], maps.shape[1:]
    for scale, axis in np.ndindex(len(scales), len(sizes)):
        count = [sizes[o] if o == axis else scales[scale] for o in range(len(sizes))]
        for place in np.ndindex(*count):
            cut = tuple(slice(i * n // k, -(-(i + 1) * n // k)) for i, n, k in zip(place, sizes, count, strict=True))
            parts += [(channel[cut] ** 2).mean() for channel in maps]
    whole = np.array(parts)
    return whole / np.linalg.norm(whole)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 2, 3, 6, 5), (1, 2, 1, 3), (2, 1, 2, 2), (1, 4, 9)])
def test_sizes_that_are_not_square_nor_divisible(shape):
    a, b = random(*shape), random(*shape, seed=1)
    pairs = [[embedding(x.numpy(), (1, 2, 4)) for x in sample] for sample in zip(a, b, strict=True)]
    expected = np.mean([np.linalg.norm(one - other) for one, other in pairs])
    assert local_pod_distance(a, b, (1, 2, 4)).item() == pytest.approx(expected, rel=1e-12)


def test_every_scale_counts_and_the_first_is_the_whole_map():
    """A public implementation has 0, 1 and 9 windows for the scales 1, 2 and 4, and so never sees the whole."""
    a = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    b = a.clone()
    a[..., 1, 1], b[..., 2, 1] = 1.0, 1.0
    assert local_pod_distance(a, b, (1,)) > 0.1
    found = [local_pod_distance(a, b, scales).item() for scales in ((1,), (1, 2), (1, 2, 4))]
    assert len({round(value, 6) for value in found}) == 3


def test_all_axes_of_a_volume_are_pooled():
    a = torch.zeros(1, 1, 4, 4, 4, dtype=torch.float64)
    a[..., 0, :, :] = 1.0
    for axis in (3, 4):
        assert local_pod_distance(a, a.transpose(2, axis), (1,)) > 0.1


def test_neither_scale_nor_sign_of_features_matters_and_equal_maps_have_no_gradient():
    a, b = random(2, 3, 4, 6), random(2, 3, 4, 6, seed=1)
    assert_close(local_pod_distance(-7 * a, b, (1, 2)), local_pod_distance(a, b, (1, 2)))
    equal = a.clone().requires_grad_()
    distance = local_pod_distance(equal, a, (1, 2))
    distance.backward()
    assert distance == 0
    assert not equal.grad.any()
    assert local_pod_distance(0 * a, 0 * b, (1, 2)) == 0


@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (1, 2, 2, 3, 2)])
def test_gradients_equal_finite_differences(shape):
    a, b = random(*shape).requires_grad_(), random(*shape, seed=1)
    assert gradcheck(lambda x: local_pod_distance(x, b, (1, 2)), a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_single(dtype):
    a, b = random(1, 2, 4, 4).to(dtype), random(1, 2, 4, 4, seed=1).to(dtype)
    assert_close(local_pod_distance(a, b, (1, 2)), local_pod_distance(a.float(), b.float(), (1, 2)))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"maps \(B, C, \*spatial\) of one shape, got \(1, 2, 3\) and \(1, 2, 4\)"):
        local_pod_distance(random(1, 2, 3), random(1, 2, 4))
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(1, 2\)"):
        local_pod_distance(random(1, 2), random(1, 2))
    for scales in ([], [0, 1]):
        with pytest.raises(ValueError, match=r"`scales` must be one or more numbers from 1 on, got"):
            local_pod_distance(random(1, 2, 3), random(1, 2, 3), scales)
