import pickle

import pytest
import torch
from torchmetrics import MetricCollection

from lit_continual.functional import continual_scores
from lit_continual.metrics import AverageAccuracy, BackwardTransfer, Forgetting, ForwardTransfer, Intransigence

R = [[0.90, 0.20, 0.10], [0.95, 0.80, 0.30], [0.50, 0.60, 0.70]]
BASELINE, REFERENCE = [0.00, 0.05, 0.15], [0.92, 0.85, 0.90]
EXPECTED = {  # worked by hand
    AverageAccuracy: 0.6,
    BackwardTransfer: -0.3,
    ForwardTransfer: 0.15,
    Forgetting: 0.325,
    Intransigence: 0.09,
}


def build(score, **options):
    bounds = {ForwardTransfer: {"baseline": BASELINE}, Intransigence: {"reference": torch.tensor(REFERENCE)}}
    return score(num_experiences=3, **bounds.get(score, {}), **options)


def fill(metric, rows=R):
    for after, row in enumerate(rows):
        for on, score in enumerate(row):
            metric.update(after=after, on=on, score=score)
    return metric


@pytest.mark.parametrize("score", EXPECTED)
def test_equals_the_value_worked_by_hand(score):
    computed = fill(build(score)).compute()
    assert computed.shape == ()
    assert computed.item() == pytest.approx(EXPECTED[score])


@pytest.mark.parametrize("score", EXPECTED)
def test_turns_the_sign_for_distances(score):
    sign = 1 if score is AverageAccuracy else -1
    computed = fill(build(score, score_higher_is_better=False)).compute()
    expected = continual_scores(R, BASELINE, REFERENCE, higher_is_better=False)[score.key]
    assert computed.item() == pytest.approx(expected)
    if score is not Forgetting:  # its maximum becomes a minimum
        assert computed.item() == pytest.approx(sign * EXPECTED[score])


@pytest.mark.parametrize("score", EXPECTED)
def test_is_nan_until_its_cells_are_there_and_follows_them(score):
    metric = build(score)
    metric.update(0, 2, 0.1)
    assert metric.compute().isnan()
    fill(metric)
    assert metric.compute().item() == pytest.approx(EXPECTED[score])
    metric.reset()
    metric.update(0, 2, 0.1)
    assert metric.compute().isnan()


@pytest.mark.parametrize("score", EXPECTED)
def test_pickling_and_merging_keep_the_cells(score):
    copy = pickle.loads(pickle.dumps(fill(build(score))))
    merged = build(score)
    merged.merge_state(copy)
    assert merged.compute().item() == pytest.approx(EXPECTED[score])


@pytest.mark.parametrize("score", [AverageAccuracy, BackwardTransfer, Forgetting])
def test_one_experience_makes_a_scalar(score):
    metric = score(num_experiences=1)
    metric.update(0, 0, 0.5)
    assert metric.compute().shape == ()


def test_all_five_fit_in_one_collection():
    collection = fill(MetricCollection([build(score) for score in EXPECTED]))
    computed = {name: value.item() for name, value in collection.compute().items()}
    assert computed == pytest.approx({score.__name__: value for score, value in EXPECTED.items()})


def test_says_which_way_is_better():
    better = {score: build(score).higher_is_better for score in EXPECTED}
    assert better == {
        AverageAccuracy: None,  # as the score in the matrix
        BackwardTransfer: True,
        ForwardTransfer: True,
        Forgetting: False,
        Intransigence: False,
    }
