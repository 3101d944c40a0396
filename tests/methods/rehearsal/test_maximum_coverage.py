from pathlib import Path

import numpy as np
import pytest
import torch

from lit_continual.functional import maximum_coverage

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "coverage.npz")


def cosines(features):
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norms == 0, 1, norms)
    return torch.from_numpy(unit @ unit.T)


def brute_force(similarity, k, candidates=None):
    """Every candidate's coverage from scratch, in exact integers."""
    rows = similarity.long().tolist()
    left, picks = sorted(range(len(rows[0])) if candidates is None else candidates), []
    while left and len(picks) < k:
        totals = [sum(max(row[s] for s in [*picks, c]) for row in rows) for c in left]
        picks.append(left.pop(totals.index(max(totals))))
    return picks


@pytest.mark.parametrize("name", ["all", "kc50"])
def test_golden_picks(name):
    candidates = GOLDEN["kc50/candidates"] if name == "kc50" else None
    assert maximum_coverage(cosines(GOLDEN["features"]), 30, candidates) == GOLDEN[f"{name}/picks"].tolist()


def test_golden_picks_start_from_no_coverage_where_similarities_are_negative():
    picks = maximum_coverage(cosines(GOLDEN["signed/features"]), 30)
    assert picks == GOLDEN["signed/minus_inf/picks"].tolist()
    assert picks != GOLDEN["signed/zero/picks"].tolist()


def test_golden_picks_by_distance():
    picks = maximum_coverage(-torch.from_numpy(GOLDEN["distance/D"]), 20)
    assert picks == GOLDEN["distance/picks"].tolist()


def test_covers_the_whole_set_not_the_candidates_alone():
    candidates = GOLDEN["kc50/candidates"]
    assert GOLDEN["kc50/picks"].tolist() != GOLDEN["kc50/WRONG_picks_if_coverage_over_candidates_only"].tolist()
    assert set(maximum_coverage(cosines(GOLDEN["features"]), 30, candidates)) <= set(candidates.tolist())


@pytest.mark.parametrize("seed", range(20))
def test_equals_brute_force_with_many_ties(seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(-3, 4, (12, 9), generator=generator)
    assert maximum_coverage(similarity.double(), 9) == brute_force(similarity, 9)
    assert maximum_coverage(similarity.double(), 4, [7, 2, 5, 0, 8]) == brute_force(similarity, 4, [7, 2, 5, 0, 8])


def test_smaller_budget_is_a_prefix():
    similarity = cosines(GOLDEN["features"])
    whole = maximum_coverage(similarity, 200)
    assert sorted(whole) == list(range(200))
    assert all(maximum_coverage(similarity, k) == whole[:k] for k in (0, 1, 2, 17, 64, 65))


def test_fewer_candidates_than_picks_are_all_returned():
    assert sorted(maximum_coverage(torch.eye(4), 10, [3, 1])) == [1, 3]
    assert maximum_coverage(torch.eye(4), 3, []) == []
    assert maximum_coverage(torch.zeros(0, 0), 3) == []


def test_zero_similarities_are_ties():
    assert maximum_coverage(torch.zeros(5, 5), 3) == [0, 1, 2]


def test_a_column_that_float32_cannot_tell_apart_wins_in_float64():
    similarity = torch.ones(1000, 2, dtype=torch.float64)
    similarity[0, 1] += 1e-9
    assert maximum_coverage(similarity, 1) == [1]


@pytest.mark.parametrize(
    ("similarity", "k", "candidates", "message"),
    [
        (torch.eye(2), -1, None, "must not be negative, got -1"),
        (torch.eye(2), 1, [0, 0], "names 1 samples twice"),
        (torch.eye(2), 1, [2], r"must lie in \[0, 2\), got 2 to 2"),
        (torch.eye(2), 1, [-1], r"must lie in \[0, 2\)"),
        (torch.ones(2), 1, None, r"must be a matrix .* got shape \(2,\)"),
        (torch.tensor([[float("nan")]]), 1, None, "nan or infinite"),
    ],
)
def test_refuses(similarity, k, candidates, message):
    with pytest.raises(ValueError, match=message):
        maximum_coverage(similarity, k, candidates)
