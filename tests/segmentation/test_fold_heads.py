import pytest
import torch
from torch.nn.functional import conv2d, conv3d

from lit_continual.segmentation.fold_heads import fold_heads
from lit_continual.segmentation.growing_heads import GrowingHeads


def features(dims, seed=0):
    return 3 * torch.randn(2, 5, *[6] * dims, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[2, 3])
def dims(request):
    return request.param


@pytest.fixture
def heads(dims):
    torch.manual_seed(0)
    return GrowingHeads(5, dims, [["a", "b"], ["c"], ["d", "e"]])


def folded_logits(heads, seen):
    return {2: conv2d, 3: conv3d}[heads.spatial_dims](seen, *fold_heads(heads))


def test_log_odds_against_the_background_are_those_of_the_own_head(heads, dims):
    seen = features(dims)
    logits, folded = heads(seen).double(), folded_logits(heads, seen).double()
    own = [logits[:, c] - logits[:, channels[0]] for channels in heads.channels for c in channels[1:]]
    torch.testing.assert_close(folded[:, 1:] - folded[:, :1], torch.stack(own, 1), atol=1e-5, rtol=1e-5)


def test_the_first_head_is_left_bit_for_bit(heads):
    weight, bias = fold_heads(heads)
    assert torch.equal(weight[:3], heads.layers[0].weight)
    assert torch.equal(bias[:3], heads.layers[0].bias)


def test_the_winner_is_the_class_of_the_highest_log_odds_or_the_background(heads, dims):
    seen = features(dims)
    logits = heads(seen)
    odds = [logits[:, c] - logits[:, channels[0]] for channels in heads.channels for c in channels[1:]]
    by_hand = torch.stack([torch.zeros_like(odds[0]), *odds], 1).argmax(1)
    found = folded_logits(heads, seen).argmax(1)
    assert len(found.unique()) > 3
    assert (found == by_hand).float().mean() > 0.999  # rounding may turn a tie


def test_one_head_alone_decides_as_it_did(dims):
    torch.manual_seed(0)
    heads = GrowingHeads(5, dims, [["a", "b"]])
    seen = features(dims)
    assert torch.equal(folded_logits(heads, seen).argmax(1), heads.labels(heads(seen)))


def test_nothing_of_the_fold_is_in_a_graph(heads):
    assert not any(part.requires_grad for part in fold_heads(heads))


def test_there_must_be_a_head():
    with pytest.raises(ValueError, match="There is no head to fold"):
        fold_heads(GrowingHeads(4, 2))
