from math import isnan, nan

import numpy as np
import pytest
import torch

from lit_continual.functional import continual_scores

NAMES = ["acc", "bwt", "fwt", "forgetting", "intransigence"]
R = [[0.90, 0.20, 0.10], [0.95, 0.80, 0.30], [0.50, 0.60, 0.70]]
BASELINE, REFERENCE = [0.00, 0.05, 0.15], [0.92, 0.85, 0.90]


def by_loops(R, b, r):
    """The formulas as the papers print them, experiences counted from 1, higher is better."""
    T = len(R)

    def score(i, j):
        return R[i - 1][j - 1]

    drops = [max(score(i, j) for i in range(1, T)) - score(T, j) for j in range(1, T)]
    return {
        "acc": sum(score(T, i) for i in range(1, T + 1)) / T,
        "bwt": sum(score(T, i) - score(i, i) for i in range(1, T)) / (T - 1),
        "fwt": sum(score(i - 1, i) - b[i - 1] for i in range(2, T + 1)) / (T - 1),
        "forgetting": sum(drops) / (T - 1),
        "intransigence": sum(r[k - 1] - score(k, k) for k in range(1, T + 1)) / T,
    }


def random_stream(experiences, seed=0):
    values = np.random.default_rng(seed).random((experiences + 2, experiences))
    return values[:-2], values[-2], values[-1]


def test_equals_a_matrix_worked_by_hand():
    expected = {
        "acc": 1.8 / 3,
        "bwt": (-0.40 - 0.20) / 2,
        "fwt": (0.15 + 0.15) / 2,
        "forgetting": (0.45 + 0.20) / 2,  # experience 1 was best after experience 2
        "intransigence": (0.02 + 0.05 + 0.20) / 3,
    }
    assert continual_scores(R, BASELINE, REFERENCE) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("experiences", [2, 3, 7])
def test_equals_the_papers_formulas_written_as_loops(experiences):
    stream = random_stream(experiences, seed=experiences)
    assert continual_scores(*stream) == pytest.approx(by_loops(*stream), abs=1e-12)


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor], ids=["list", "array", "tensor"])
def test_takes_lists_arrays_and_tensors_and_returns_floats(kind):
    scores = continual_scores(kind(R), kind(BASELINE), kind(REFERENCE))
    assert list(scores) == NAMES
    assert all(type(score) is float for score in scores.values())
    assert scores == pytest.approx(by_loops(R, BASELINE, REFERENCE), abs=1e-7)  # the tensor is float32


def test_distances_are_the_negated_scores_in_their_own_unit():
    matrix, baseline, reference = random_stream(4)
    distance = continual_scores(matrix, baseline, reference, higher_is_better=False)
    negated = continual_scores(-matrix, -baseline, -reference)
    assert distance.pop("acc") == -negated.pop("acc") == pytest.approx(matrix[-1].mean())
    assert distance == negated


@pytest.mark.parametrize(("better", "before", "after"), [(True, 0.9, 0.1), (False, 1.0, 30.0)], ids=["Dice", "mm"])
def test_forgetting_has_one_sign_whichever_way_is_better(better, before, after):
    scores = continual_scores([[before, nan], [after, before]], higher_is_better=better)
    assert scores["bwt"] == -abs(before - after)
    assert scores["forgetting"] == abs(before - after)


def test_perfect_memory_and_learning_score_zero():
    scores = continual_scores(torch.full((4, 4), 0.5), [0.5] * 4, [0.5] * 4)
    assert scores == {"acc": 0.5, "bwt": 0, "fwt": 0, "forgetting": 0, "intransigence": 0}


def test_the_order_of_earlier_experiences_does_not_matter_where_order_is_not_in_the_formula():
    matrix, baseline, reference = random_stream(5)
    order = [2, 0, 3, 1, 4]
    first, second = (
        continual_scores(matrix, baseline, reference),
        continual_scores(matrix[np.ix_(order, order)], baseline[order], reference[order]),
    )
    for name in ("acc", "bwt", "forgetting", "intransigence"):
        assert first[name] == pytest.approx(second[name], abs=1e-12)
    assert first["fwt"] != pytest.approx(second["fwt"], abs=1e-3)


def test_a_common_offset_moves_acc_alone():
    matrix, baseline, reference = random_stream(4)
    plain, moved = (
        continual_scores(matrix, baseline, reference),
        continual_scores(matrix + 1, baseline + 1, reference + 1),
    )
    assert moved.pop("acc") == pytest.approx(plain.pop("acc") + 1)
    assert moved == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("better", [True, False])
def test_one_experience_has_no_transfer(better):
    scores = continual_scores([[0.5]], [0.1], [0.75], better)
    assert [name for name in NAMES if isnan(scores[name])] == ["bwt", "fwt", "forgetting"]
    assert scores["acc"] == 0.5
    assert scores["intransigence"] == (0.25 if better else -0.25)


def test_what_is_not_given_is_nan():
    scores = continual_scores(R)
    assert [name for name in NAMES if isnan(scores[name])] == ["fwt", "intransigence"]


@pytest.mark.parametrize(
    ("cell", "lost"),
    [
        ((2, 0), ["acc", "bwt", "forgetting"]),  # last row
        ((2, 2), ["acc", "intransigence"]),  # last row and diagonal, but no earlier experience
        ((1, 1), ["bwt", "forgetting", "intransigence"]),  # the only earlier value of its column but one
        ((0, 1), ["fwt"]),  # before the experience: forgetting has another row to look at
        ((1, 0), []),
        ((0, 2), []),
    ],
)
def test_a_value_that_was_not_evaluated_is_never_dropped_silently(cell, lost):
    matrix = np.array(R)
    matrix[cell] = nan
    if cell == (1, 1):
        matrix[0, 1] = nan
        lost = [*lost, "fwt"]
    scores = continual_scores(matrix, BASELINE, REFERENCE)
    assert {name for name in NAMES if isnan(scores[name])} == set(lost)


def test_forgetting_passes_over_earlier_rows_that_were_not_evaluated():
    matrix = np.array(R)
    matrix[1, 0] = nan
    assert continual_scores(matrix)["forgetting"] == pytest.approx((0.40 + 0.20) / 2)


def test_the_first_baseline_is_not_needed():
    assert continual_scores(R, [nan, *BASELINE[1:]])["fwt"] == pytest.approx(0.15)


def test_leaves_its_arguments_as_they_were():
    matrix = torch.tensor(R, dtype=torch.float64)
    continual_scores(matrix, BASELINE, REFERENCE, higher_is_better=False)
    torch.testing.assert_close(matrix, torch.tensor(R, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("matrix", [[1.0, 2.0], [[1.0, 2.0]], [[]], torch.zeros(0, 0), torch.zeros(2, 2, 2)])
def test_rejects_a_matrix_that_is_not_square(matrix):
    with pytest.raises(ValueError, match=r"`matrix` must have shape \(T, T\) with T >= 1, and has \("):
        continual_scores(matrix)


@pytest.mark.parametrize("name", ["baseline", "reference"])
@pytest.mark.parametrize("values", [[0.1, 0.2], 0.1, [[0.1, 0.2, 0.3]]])
def test_rejects_a_vector_without_one_value_an_experience(name, values):
    with pytest.raises(ValueError, match=rf"`{name}` must have one value for each of the 3 experiences"):
        continual_scores(R, **{name: values})
