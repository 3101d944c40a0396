import pickle
from math import nan

import pytest
import torch
import torch.distributed as dist
from monai.data import MetaTensor
from torch.testing import assert_close

from lit_continual.metrics import AverageSurfaceDistance, Dice, HausdorffDistance95, PerCaseScore

SCORES = [Dice, AverageSurfaceDistance, HausdorffDistance95]


class FirstVoxels(PerCaseScore):
    """How many truth voxels there are, undefined for an empty prediction: a score whose values a test can choose."""

    def case_score(self, prediction, truth, spacing):
        return truth.sum().item() if prediction.any() else nan


def chosen(*values):
    """Masks on which ``FirstVoxels`` is ``values``."""
    prediction, truth = torch.zeros(2, len(values), 4, 4, dtype=torch.bool)
    for case, value in enumerate(values):
        if value == value:  # not nan
            prediction[case, 0, 0] = True
            truth[case].view(-1)[:value] = True
    return prediction, truth


def random_masks(cases=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, cases, 5, 6, 4, generator=generator) > 0.7
    masks[:, 1] = False  # undefined for every score
    return masks.unbind()


def test_averages_over_cases_and_not_over_batches():
    metric = FirstVoxels()
    metric.update(*chosen(3))
    metric.update(*chosen(1, 1, 3))
    assert metric.compute() == 2.0


def test_never_averages_nan():
    metric = FirstVoxels()
    metric.update(*chosen(nan, 4))
    metric.update(*chosen(nan))
    metric.update(*chosen(2))
    assert metric.compute() == 3.0
    assert metric.left_out() == 2
    assert_close(metric.values(), torch.tensor([nan, 4.0, nan, 2.0]), equal_nan=True)


def test_is_nan_where_no_case_is_defined():
    metric = FirstVoxels()
    metric.update(*chosen(nan, nan))
    assert metric.compute().isnan()
    assert metric.left_out() == 2


def test_is_empty_before_the_first_case():
    metric = Dice()
    assert metric.values().shape == (0,)
    assert metric.left_out() == 0
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        assert metric.compute().isnan()


@pytest.mark.parametrize("score", SCORES)
def test_does_not_depend_on_how_cases_are_batched(score):
    prediction, truth = random_masks()
    whole, single = score(), score()
    whole.update(prediction, truth)
    for case in range(len(truth)):
        single.update(prediction[case : case + 1], truth[case : case + 1])
    assert_close(whole.values(), single.values(), rtol=0, atol=0, equal_nan=True)
    assert whole.compute() == single.compute() == whole.values().nanmean()


@pytest.mark.parametrize("score", SCORES)
def test_forward_returns_the_batch_and_keeps_the_rest(score):
    first, second = random_masks(seed=0), random_masks(seed=1)
    metric, alone = score(), score()
    metric(*first)
    alone.update(*second)
    assert metric(*second) == alone.compute()
    assert metric.values().shape == (10,)
    assert_close(metric.values()[5:], alone.values(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("score", SCORES)
def test_reset_forgets_all_cases(score):
    metric = score()
    metric.update(*random_masks())
    metric.compute()
    metric.reset()
    assert metric.values().shape == (0,)


@pytest.mark.parametrize("score", SCORES)
def test_pickling_keeps_the_cases(score):
    metric = score()
    metric.update(*random_masks())
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.compute() == metric.compute()
    copy.update(*random_masks(seed=1))
    assert copy.values().shape == (10,)
    assert metric.values().shape == (5,)


def test_merging_equals_seeing_all_cases():
    one, other = FirstVoxels(), FirstVoxels()
    one.update(*chosen(1, nan))
    other.update(*chosen(2, 3, 6))
    assert one.compute() == 1.0
    one.merge_state(other)
    assert one.compute() == 3.0
    assert one.left_out() == 1


def test_takes_the_tensors_of_monai():
    prediction, truth = random_masks()
    for score in SCORES:
        plain, meta = score(), score()
        plain.update(prediction, truth)
        meta.update(MetaTensor(prediction), MetaTensor(truth))
        assert type(meta.values()) is torch.Tensor
        assert_close(meta.values(), plain.values(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["prediction", "truth"])
@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 4, 4), torch.zeros(4, 4, dtype=torch.bool), torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)]
)
def test_rejects_what_is_no_batch_of_masks(name, wrong):
    masks = {"prediction": torch.zeros(1, 4, 4, dtype=torch.bool), "truth": torch.zeros(1, 4, 4, dtype=torch.bool)}
    with pytest.raises(ValueError, match=rf"`{name}` must be a boolean tensor of shape \(B, H, W\)"):
        Dice().update(**{**masks, name: wrong})


def test_rejects_masks_of_two_shapes():
    with pytest.raises(ValueError, match=r"must have one shape, and have \(1, 4, 4\) and \(1, 4, 5\)"):
        Dice().update(torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 5, dtype=torch.bool))


@pytest.mark.parametrize("spacing", [[1.0], [1.0, 1.0, 1.0], [1.0, 0.0], [1.0, nan], torch.ones(3, 2), 1.0])
def test_rejects_a_spacing_that_does_not_fit(spacing):
    masks = torch.ones(2, 2, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"`spacing` must hold positive mm along the 2 axes .* its 2 cases, and is"):
        HausdorffDistance95().update(*masks, spacing=spacing)


def rank_results(rank, file, counts, out):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=len(counts))
    prediction, truth = random_masks(sum(counts))
    results = {}
    for score in SCORES:
        metric = score()
        start = sum(counts[:rank])
        for case in range(start, start + counts[rank]):
            metric.update(prediction[case : case + 1], truth[case : case + 1])
        results[score.__name__] = metric.compute(), metric.values(), metric.left_out(), metric.compute()
    torch.save(results, f"{out}{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(4, 1), (2, 3), (5, 0)], ids=str)
def test_two_processes_with_unequal_counts_equal_one(tmp_path, counts):
    torch.multiprocessing.spawn(rank_results, (tmp_path / "store", counts, tmp_path / "rank"), nprocs=2)
    for score in SCORES:
        alone = score()
        alone.update(*random_masks(5))
        for rank in range(2):
            mean, values, left_out, again = torch.load(tmp_path / f"rank{rank}", weights_only=True)[score.__name__]
            assert_close(values, alone.values(), rtol=0, atol=0, equal_nan=True)
            assert mean == again == alone.compute()
            assert left_out == alone.left_out() == 1
