import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lit_continual.functional import class_ratio_weights


def test_every_class_has_the_same_total_weight():
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randint(0, 3, (1, 8, 8), generator=generator) % 2 * 2 for _ in range(3)] + [torch.ones(5).int()]
    weights = class_ratio_weights(iter(labels), 3)
    flat = torch.cat([label.reshape(-1) for label in labels]).long()
    totals = [weights[c] * (flat == c).sum() for c in range(3)]
    by_voxel = torch.stack([weights[c] for c in flat])
    assert_close(totals, [totals[0]] * 3)
    assert_close(by_voxel.mean(), torch.tensor(1.0))


def test_cross_entropy_of_a_constant_guess_does_not_follow_the_larger_class():
    label = torch.tensor([[0] * 99 + [1]])
    weights = class_ratio_weights([label], 2)
    for guess in (3.0, -3.0):
        logits = torch.tensor([guess, -guess]).reshape(1, 2, 1).expand(1, 2, 100)
        assert_close(cross_entropy(logits, label, weight=weights), cross_entropy(-logits, label, weight=weights))


def test_the_power_tempers_the_ratio_of_two_weights():
    labels = [torch.tensor([0] * 96 + [1] * 4)]
    for power, ratio in ((0.5, 24**0.5), (0.0, 1.0), (1.0, 24.0)):
        background, organ = class_ratio_weights(labels, 2, power)
        assert_close(organ / background, torch.tensor(ratio))
        assert_close(0.96 * background + 0.04 * organ, torch.tensor(1.0))


def test_an_absent_class_weighs_nothing():
    assert_close(class_ratio_weights([torch.tensor([0, 2, 2, 2])], 4), torch.tensor([2.0, 0.0, 2 / 3, 0.0]))


def test_bad_labels_are_named():
    with pytest.raises(ValueError, match="from 0 to 1, got 0 to 5: raise `num_classes`"):
        class_ratio_weights([torch.tensor([0, 5])], 2)
    with pytest.raises(ValueError, match="got -1 to 0"):
        class_ratio_weights([torch.tensor([0, -1])], 2)
    with pytest.raises(ValueError, match="no voxels"):
        class_ratio_weights([], 2)
    with pytest.raises(ValueError, match="`power` must be from 0 to 1, got 2"):
        class_ratio_weights([torch.tensor([0, 1])], 2, 2.0)
