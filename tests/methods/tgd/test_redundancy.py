import math

import pytest
import torch
from torch import nn

from lit_continual.functional import kernel_sparsity_entropy
from lit_continual.methods.bases.fit.frozen_entries import free_share
from lit_continual.methods.tgd.producers import find_producers
from lit_continual.methods.tgd.redundancy import drop_kernels, kernel_scores, threshold_for_share

INF = math.inf


class Residual(nn.Module):
    """`a`, a normalisation, then two readers of the sum of `a` and `b`, the second read by a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 3, 2, 2)
        self.c, self.d = nn.Conv2d(3, 1, 1), nn.Conv2d(4, 1, 2, 2)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        y = self.a(x)
        y = torch.relu(self.norm(y + self.b(y)))
        return self.c(self.up(y)), self.d(y)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Residual()


def below(scores, phi):
    return {name: score < phi for name, score in scores.items()}


def kse(layer, **options):
    return kernel_sparsity_entropy(layer.weight, **options).tolist()


def test_the_score_of_a_kernel_is_the_largest_that_its_readers_give(network):
    scores = kernel_scores(network, find_producers(network))
    b, up, c, d = kse(network.b), kse(network.up, transposed=True), kse(network.c), kse(network.d)
    of_b = [max(both) for both in zip(up, d, strict=True)]
    of_a = [max(all_) for all_ in zip(b, up, d, strict=True)]
    assert scores["a.weight"].tolist() == [[[[s]]] for s in of_a]
    assert scores["a.bias"].tolist() == of_a
    assert scores["b.weight"].flatten().tolist() == of_b
    assert scores["up.weight"].shape == (1, 3, 1, 1)
    assert scores["up.bias"].tolist() == scores["up.weight"].flatten().tolist() == c
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert scores[f"norm.{name}"].tolist() == of_a  # its channels are made by `a` and `b`
    assert scores["norm.num_batches_tracked"] == min(of_a)
    for name in ("c.weight", "c.bias", "d.weight", "d.bias", "unused.weight", "unused.bias"):
        assert scores[name].flatten().tolist() == [INF]


def test_a_fresh_reader_does_not_judge_and_is_free(network):
    scores = kernel_scores(network, find_producers(network), fresh=["d.weight", "d.bias"])
    assert scores["b.weight"].flatten().tolist() == kse(network.up, transposed=True)
    assert scores["d.weight"] == scores["d.bias"] == -INF
    alone = kernel_scores(network, find_producers(network), fresh=["c.weight"])
    assert alone["up.bias"].tolist() == [INF] * 3  # judged by nobody else: not guessed at


def test_options_reach_the_score(network):
    scores = kernel_scores(network, find_producers(network), k=1, alpha=0.0)
    assert scores["up.bias"].tolist() == kse(network.c, k=1, alpha=0.0)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_share_counts_parameters(network, phi):
    scores = kernel_scores(network, find_producers(network))
    free = sum(int((scores[n].expand_as(p) < phi).sum()) for n, p in network.named_parameters())
    total = sum(p.numel() for p in network.parameters())
    assert free_share(network, below(scores, phi)) == pytest.approx(free / total)
    assert (free == 0) == (phi == 0)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.4])
def test_threshold_is_the_smallest_that_frees_the_share(network, share):
    scores = kernel_scores(network, find_producers(network))
    phi = threshold_for_share(network, scores, share)
    assert free_share(network, below(scores, phi)) >= share
    tried = [s for t in scores.values() for s in t.flatten().tolist() if s < phi]
    assert all(free_share(network, below(scores, s)) < share for s in tried if s >= 0)


def test_a_share_that_cannot_be_freed(network):
    scores = kernel_scores(network, find_producers(network))
    with pytest.raises(ValueError, match=r"`share` is 0.99, and at most 0\.\d+ of the parameters can be freed"):
        threshold_for_share(network, scores, 0.99)


def test_dropping_works_on_a_copy_and_makes_the_channels_zero(network):
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scores = kernel_scores(network, find_producers(network))
    phi = sorted(scores["norm.weight"].tolist())[2]
    dropped, seen = drop_kernels(network, scores, phi), []
    dropped.up.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    dropped(torch.rand(1, 1, 8, 8))
    assert (scores["norm.weight"] < phi).sum() == 2
    assert not seen[0][:, scores["norm.weight"] < phi].any()
    torch.testing.assert_close(dict(network.state_dict()), before, atol=0, rtol=0)
    same = drop_kernels(network, scores, 0.0)
    torch.testing.assert_close(dict(same.state_dict()), before, atol=0, rtol=0)
