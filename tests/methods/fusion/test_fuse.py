import pytest
import torch
from torch.testing import assert_close

from lit_continual.functional import fuse_weights


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("shape", [(), (5,), (3, 2, 3, 3), (2, 2, 3, 3, 3)])
def test_it_is_the_weighted_mean(share, shape):
    torch.manual_seed(0)
    old, new = torch.randn(shape), torch.randn(shape)
    (fused,) = fuse_weights({"w": old}, {"w": new}, share).values()
    assert_close(fused.double(), (1 - share) * old.double() + share * new.double(), rtol=1e-6, atol=1e-6)
    if share in (0.0, 1.0):
        assert torch.equal(fused, [old, new][int(share)])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_where_both_agree_every_bit_stays(share):
    value = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 1e3
    assert torch.equal(fuse_weights({"w": value}, {"w": value}, share)["w"], value)


def test_what_is_new_or_counts_is_the_new_networks():
    old = {"w": torch.zeros(2, 3), "count": torch.tensor(7)}
    new = {"w": torch.ones(4, 3), "count": torch.tensor(9), "head": torch.ones(2)}
    fused = fuse_weights(old, new, 0.25)
    assert fused["w"].tolist() == [[0.25] * 3] * 2 + [[1.0] * 3] * 2
    assert (fused["count"], fused["head"].tolist()) == (9, [1.0, 1.0])
    assert new["w"].tolist() == [[1.0] * 3] * 4  # as it was


def test_the_dtype_is_the_new_networks():
    fused = fuse_weights({"w": torch.zeros(2)}, {"w": torch.ones(2, dtype=torch.bfloat16)}, 0.5)["w"]
    assert fused.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("old", "share", "message"),
    [
        ({"w": torch.zeros(2)}, 1.5, r"`share` of the new network must be in \[0, 1\], got 1.5"),
        ({"w": torch.zeros(3)}, 0.5, r"`w` had the shape \(3,\) and has \(2,\)"),
        ({"w": torch.zeros(2, 1)}, 0.5, r"`w` had the shape \(2, 1\) and has \(2,\)"),
        ({"gone": torch.zeros(2)}, 0.5, "`gone` is in the old network and not in the new one"),
    ],
)
def test_bad_input_is_named(old, share, message):
    with pytest.raises(ValueError, match=message):
        fuse_weights(old, {"w": torch.ones(2)}, share)
