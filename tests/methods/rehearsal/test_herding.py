from pathlib import Path

import numpy as np
import pytest
import torch

from lit_continual.functional import herding

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "coverage.npz")
FEATURES = torch.from_numpy(GOLDEN["features"])[:100]  # the golden picks are among these


def test_golden_picks():
    assert herding(FEATURES, 20) == GOLDEN["herding/picks"].tolist()


def test_stays_within_the_candidates_and_is_prefix_stable():
    picks = herding(FEATURES, 99, [5, 3, 8])
    assert sorted(picks) == [3, 5, 8]
    assert herding(FEATURES, 2, [5, 3, 8]) == picks[:2]


def test_ties_go_to_the_lowest_index():
    # The mean of 0, 1, 1, 1 is 0.75: after one 1, another 0 or 1 are equally far from it.
    assert herding(torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.5, 0.0]]), 4) == [1, 0, 2, 3]


def test_scale_of_a_sample_does_not_matter():
    assert herding(FEATURES * torch.linspace(0.1, 9.0, 100)[:, None], 20) == GOLDEN["herding/picks"].tolist()


def test_refuses_a_negative_budget():
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        herding(FEATURES, -1)
