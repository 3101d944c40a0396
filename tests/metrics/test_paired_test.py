import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lit_continual.metrics import paired_test


def runs(count=8, seed=0, shift=0.05):
    generator = np.random.default_rng(seed)
    first = generator.uniform(0.5, 0.9, count)
    second = first + generator.normal(shift, 0.05, count)
    names = [f"patient{k}" for k in range(count)]
    return dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True))


def test_wilcoxon_counts_all_signs():
    first, second = runs()
    differences = np.array([second[name] - first[name] for name in first])
    ranks = stats.rankdata(np.abs(differences))
    observed = ranks[differences > 0].sum()
    sums = [ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=8)]
    tail = min(np.mean([s >= observed for s in sums]), np.mean([s <= observed for s in sums]))
    result = paired_test(first, second)
    assert result.p_value == pytest.approx(min(1, 2 * tail))
    assert result.difference == pytest.approx(differences.mean())


def test_t_is_students():
    first, second = runs()
    d = np.array([second[name] - first[name] for name in first])
    t = d.mean() / (d.std(ddof=1) / math.sqrt(len(d)))
    assert paired_test(first, second, "t").p_value == pytest.approx(2 * stats.t.sf(abs(t), len(d) - 1))


def test_pairs_by_name_and_leaves_undefined_patients_out():
    first, second = runs()
    shuffled = dict(reversed(second.items()))
    assert paired_test(first, shuffled) == paired_test(first, second)
    with_nan = {**second, "patient3": math.nan}
    without = [{k: v for k, v in run.items() if k != "patient3"} for run in (first, second)]
    expected = paired_test(*without)
    result = paired_test(first, with_nan)
    assert (result.cases, result.left_out) == (7, 1)
    assert (result.difference, result.p_value) == (expected.difference, expected.p_value)


def test_ends_of_the_range():
    first, _ = runs()
    assert paired_test(first, first).p_value == 1
    assert math.isnan(paired_test({"a": 0.5}, {"a": 0.6}).p_value)
    assert paired_test({"a": math.nan}, {"a": 0.6}).left_out == 1


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="different patients: b, c is in one of them only"):
        paired_test({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="got 'sign'"):
        paired_test({"a": 1.0}, {"a": 1.0}, "sign")


def test_equal_differences_are_ties_whatever_subtraction_leaves():
    steps = [1, 1, 1, 1, 1, -1, 2]
    first = {str(k): value / 10 for k, value in enumerate([7, 8, 6, 5, 9, 4, 3])}
    second = {
        str(k): (value + step) / 10 for k, (value, step) in enumerate(zip([7, 8, 6, 5, 9, 4, 3], steps, strict=True))
    }
    assert len({second[name] - first[name] for name in first}) > 3
    assert paired_test(first, second).p_value == pytest.approx(stats.wilcoxon(steps).pvalue)
    for scale in (1e-3, 1e4):
        one, other = ({name: scale * value for name, value in scores.items()} for scores in (first, second))
        assert paired_test(one, other).p_value == pytest.approx(stats.wilcoxon(steps).pvalue)


def test_a_difference_of_rounding_alone_is_none():
    first = {"a": 0.1 + 0.2, "b": 0.5, "c": 0.5}
    assert paired_test(first, {"a": 0.3, "b": 0.5, "c": 0.5}).p_value == 1
