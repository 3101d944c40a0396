import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_continual.methods.plop.pseudo_labels import (
    BINS,
    count_entropies,
    median_thresholds,
    pseudo_labels,
    relative_entropy,
)


@pytest.fixture
def teacher():
    return 3 * torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target():
    return torch.randint(0, 2, (4, 12, 12), generator=torch.Generator().manual_seed(1)) * 3


def by_hand(logits):
    p = logits.double().softmax(1)
    return (-(p * p.log()).sum(1) / np.log(logits.shape[1])).numpy(), p.argmax(1).numpy()


def test_entropy_is_relative_to_its_maximum(teacher):
    entropy, winner = relative_entropy(teacher)
    expected = by_hand(teacher)
    np.testing.assert_allclose(entropy.numpy(), expected[0], atol=1e-6)
    assert (winner.numpy() == expected[1]).all()
    assert_close(relative_entropy(torch.zeros(1, 5, 1))[0], torch.ones(1, 1))
    assert relative_entropy(torch.tensor([[[200.0], [-200.0]]]))[0] == 0
    assert relative_entropy(torch.zeros(1, 1, 2))[0].tolist() == [[0.0, 0.0]]  # a teacher without a class


def test_thresholds_are_the_medians_over_the_background_of_all_batches(teacher, target):
    counts = sum(count_entropies(t, y == 0) for t, y in zip(teacher.split(2), target.split(2), strict=True))
    found = median_thresholds(counts, 0.001).numpy()
    entropy, winner = by_hand(teacher)
    background = target.numpy() == 0
    for c in range(3):
        values = entropy[background & (winner == c)]
        below, above = (np.quantile(values, 0.5, method=side) for side in ("lower", "higher"))
        assert below - 1 / BINS < found[c] < above + 1 / BINS


def test_a_class_without_voxels_and_one_of_certain_voxels_have_the_least_threshold():
    counts = torch.zeros(3, BINS, dtype=torch.long)
    counts[0, 0], counts[2, 700] = 5, 1
    found = median_thresholds(counts, 0.01)
    assert found.tolist() == pytest.approx([0.01, 0.01, 0.7005])


def test_only_certain_background_gets_the_answer_of_the_old_network(teacher, target):
    thresholds = torch.tensor([0.3, 0.6, 0.1])
    entropy, winner = by_hand(teacher)
    found = pseudo_labels(target, teacher, thresholds)
    for i in np.ndindex(*target.shape):
        certain = entropy[i] < thresholds[winner[i]]
        background = target[i] == 0
        assert found.target[i] == (winner[i] if background and certain else target[i])
        assert found.ignored[i] == (background and not certain)
    background = target == 0
    share = (background & ~found.ignored).flatten(1).sum(1) / background.flatten(1).sum(1)
    assert_close(found.certain, share)


def test_a_sample_without_background_has_its_whole_weight(teacher):
    found = pseudo_labels(torch.full((4, 12, 12), 2), teacher, torch.zeros(3))
    assert found.certain.tolist() == [1.0] * 4
    assert not found.ignored.any()
    found = pseudo_labels(torch.zeros(4, 12, 12, dtype=torch.long), teacher, torch.zeros(3))
    assert found.certain.tolist() == [0.0] * 4
    assert found.ignored.all()
