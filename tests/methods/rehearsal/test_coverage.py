from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from lit_continual.functional import coverage_order, maximum_coverage, maximum_coverage_of_features
from lit_continual.methods.rehearsal import coverage

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "coverage.npz")
GOLDEN_FEATURES = torch.from_numpy(GOLDEN["features"])


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


def plain_greedy(features, k, candidates=None):
    """All cosines at once and every gain at every step, in numpy."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norms == 0, 1, norms)
    columns = np.arange(len(unit)) if candidates is None else np.sort(candidates)
    similarity, coverage, picks = unit @ unit[columns].T, None, []
    for _ in range(min(k, len(columns))):
        gain = similarity.sum(0) if coverage is None else np.maximum(similarity - coverage[:, None], 0).sum(0)
        gain[[np.searchsorted(columns, p) for p in picks]] = -np.inf
        best = int(np.flatnonzero(gain >= gain.max() - 1e-10)[0])
        coverage = similarity[:, best] if coverage is None else np.maximum(coverage, similarity[:, best])
        picks.append(int(columns[best]))
    return picks


def samples(kind, n=400, d=16):
    rng = np.random.default_rng(0)
    if kind == "isotropic":
        return rng.standard_normal((n, d))
    if kind == "positive":
        return np.abs(rng.standard_normal((n, d)))
    centres = rng.standard_normal((20, d))[rng.integers(0, 20, n)]
    return centres if kind == "duplicates" else centres + 1e-7 * rng.standard_normal((n, d))


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


@pytest.mark.parametrize("candidates", [None, GOLDEN["kc50/candidates"]], ids=["all", "kc50"])
def test_golden_picks_of_features(candidates):
    name = "all" if candidates is None else "kc50"
    assert maximum_coverage_of_features(GOLDEN_FEATURES, 30, candidates) == GOLDEN[f"{name}/picks"].tolist()


def test_golden_picks_of_features_with_negative_cosines():
    picks = maximum_coverage_of_features(torch.from_numpy(GOLDEN["signed/features"]), 30)
    assert picks == GOLDEN["signed/minus_inf/picks"].tolist()


@pytest.mark.parametrize("pairs", [0, 10**4, coverage.PAIRS], ids=["none", "few", "all"])
@pytest.mark.parametrize("kind", ["isotropic", "positive", "duplicates", "near duplicates"])
def test_equals_the_plain_greedy_however_much_is_kept(kind, pairs, monkeypatch):
    monkeypatch.setattr(coverage, "PAIRS", pairs)
    features = samples(kind)
    assert maximum_coverage_of_features(torch.from_numpy(features), 60) == plain_greedy(features, 60)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_other_precisions_of_products_do_not_change_the_picks(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        picks = maximum_coverage_of_features(GOLDEN_FEATURES.float() * 3, 30)
    finally:
        torch.set_float32_matmul_precision(before)
    assert picks == plain_greedy(GOLDEN_FEATURES.float().numpy().astype(float), 30)


def test_zero_vectors_cover_nobody_and_come_last():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.1]])
    assert maximum_coverage_of_features(features, 4) == [1, 3, 0, 2]
    assert maximum_coverage_of_features(torch.zeros(3, 2), 2) == [0, 1]


def test_scale_of_a_sample_does_not_matter():
    scaled = GOLDEN_FEATURES * torch.logspace(-150, 150, len(GOLDEN_FEATURES), dtype=torch.float64)[:, None]
    assert maximum_coverage_of_features(scaled, 30) == GOLDEN["all/picks"].tolist()


def test_smaller_budget_of_features_is_a_prefix_and_fewer_candidates_are_all_returned():
    whole = list(coverage_order(GOLDEN_FEATURES))
    assert sorted(whole) == list(range(200))
    assert all(maximum_coverage_of_features(GOLDEN_FEATURES, k) == whole[:k] for k in (0, 1, 31, 300))
    assert sorted(maximum_coverage_of_features(GOLDEN_FEATURES, 5, [9, 4])) == [4, 9]
    assert maximum_coverage_of_features(GOLDEN_FEATURES, 5, []) == []


@pytest.mark.parametrize(
    ("features", "k", "message"),
    [
        (torch.ones(3), 1, r"must be a matrix .* got shape \(3,\)"),
        (torch.full((2, 2), torch.inf), 1, "nan or infinite"),
        (torch.ones(2, 2), -2, "must not be negative, got -2"),
    ],
)
def test_refuses_features(features, k, message):
    with pytest.raises(ValueError, match=message):
        maximum_coverage_of_features(features, k)


def cover_in_a_group(rank, world, store, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    coverage.PAIRS = 10**4
    group = distributed.group.WORLD
    picks = {
        "golden": maximum_coverage_of_features(GOLDEN_FEATURES, 30, group=group),
        "few": maximum_coverage_of_features(GOLDEN_FEATURES[:2], 2, group=group),  # fewer samples than processes
        **{
            kind: maximum_coverage_of_features(torch.from_numpy(samples(kind)), 30, group=group)
            for kind in ("isotropic", "duplicates")
        },
    }
    torch.save(picks, f"{results}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_process_of_a_group_returns_the_picks_of_one(world, tmp_path):
    multiprocessing.spawn(cover_in_a_group, (world, tmp_path / "store", tmp_path), nprocs=world)
    expected = {
        "golden": GOLDEN["all/picks"].tolist(),
        "few": maximum_coverage_of_features(GOLDEN_FEATURES[:2], 2),
        **{kind: plain_greedy(samples(kind), 30) for kind in ("isotropic", "duplicates")},
    }
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)] == [expected] * world
