from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_continual.functional import content_distance, maximum_coverage, pairwise_squared_distance

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "coverage.npz")
SHAPES = [(3, 8, 6), (5, 4, 3), (7, 1, 1)]


def activations(n, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=generator, dtype=dtype).relu() for shape in SHAPES]


def by_hand(a, b, reduction):
    """Eq. 3, pixel by pixel in plain loops over images, layers and filters."""
    result = np.zeros((len(a[0]), len(b[0])))
    for i in range(len(a[0])):
        for j in range(len(b[0])):
            for x, y in zip(a, b, strict=True):
                square = (x[i].double().numpy() - y[j].double().numpy()) ** 2
                filters = [f.mean() if reduction != "sum" else f.sum() for f in square]
                result[i, j] += np.mean(filters) if reduction == "layer_mean" else np.sum(filters)
    return torch.from_numpy(result)


@pytest.mark.parametrize("reduction", ["mean", "sum", "layer_mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_equals_the_sum_written_by_hand(reduction, dtype):
    a, b = activations(4, 0, dtype), activations(3, 1, dtype)
    result = content_distance(a, b, reduction)
    assert result.dtype == torch.promote_types(dtype, torch.float32)
    assert_close(result.double(), by_hand(a, b, reduction), rtol=1e-5 if dtype != torch.float64 else 1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_images_are_at_zero_and_close_ones_keep_their_digits(dtype):
    a = [1000 + x for x in activations(3, 0, dtype)]  # large activations: the difference of squares has no digits left
    b = [x.clone() for x in a]
    for x in b:
        x[1] += 0.5
    result = content_distance(a, b, "sum")
    assert result[0, 0] == result[2, 2] == 0
    assert_close(
        result[1, 1].double(), torch.tensor(0.25 * sum(np.prod(s) for s in SHAPES)).double(), rtol=1e-6, atol=0
    )
    assert (result >= 0).all()


def test_is_symmetric_and_never_negative_among_copies():
    a = activations(1, 0, torch.float32)
    copies = [x.repeat(5, 1, 1, 1) * 1e3 for x in a]
    assert torch.equal(content_distance(copies, copies), torch.zeros(5, 5))
    b = activations(6, 1)
    assert_close(content_distance(b, b), content_distance(b, b).T)


def test_long_activations_do_not_lose_digits_in_the_sum():
    a, b = (torch.rand(2, 300_000, generator=torch.Generator().manual_seed(s)) + 10 for s in (0, 1))
    expected = torch.cdist(a.double(), b.double()).square()
    assert_close(pairwise_squared_distance(a, b), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("near", [1e-3, 1.0])
def test_a_centre_that_both_share_changes_nothing(near):
    a, b = torch.randn(3, 40, dtype=torch.float64) * near, torch.randn(2, 40, dtype=torch.float64) * near
    centre = torch.full((40,), 5.0, dtype=torch.float64)
    assert_close(pairwise_squared_distance(a + centre, b, centre=centre), torch.cdist(a, b).square())


def test_golden_picks_by_distance():
    matrix = torch.from_numpy(GOLDEN["distance/D"])  # squared distances between points: embed and measure again
    centre = torch.eye(80).double() - 1 / 80
    values, vectors = torch.linalg.eigh(-0.5 * centre @ matrix @ centre)
    embedded = vectors * values.clamp_min(0).sqrt()
    again = content_distance([embedded[:, :, None, None]], [embedded[:, :, None, None]])
    assert_close(again, matrix, rtol=0, atol=1e-9)
    assert maximum_coverage(-again, 20) == GOLDEN["distance/picks"].tolist()


def test_no_image_gives_an_empty_matrix():
    empty, some = [x[:0] for x in activations(1, 0)], activations(2, 0)
    assert content_distance(empty, some).shape == (0, 2)
    assert content_distance(some, empty).shape == (2, 0)


def test_refuses_what_does_not_match():
    a = activations(1, 0)
    with pytest.raises(ValueError, match="has 3 layers and `activations_b` 2"):
        content_distance(a, a[:2])
    with pytest.raises(ValueError, match=r"Layer 0 has activations of shape \(3, 8, 6\) .* \(5, 4, 3\)"):
        content_distance(a, a[1:] + a[:1])
    with pytest.raises(ValueError, match=r"`reduction` must be one of .* got 'median'"):
        content_distance(a, a, "median")
