import pytest
import torch

from lit_continual.metrics import Dice


def by_sets(prediction, truth):
    one, other = ({tuple(voxel) for voxel in mask.nonzero().tolist()} for mask in (prediction, truth))
    return 2 * len(one & other) / (len(one) + len(other))


@pytest.mark.parametrize("shape", [(7, 5), (4, 5, 6)], ids=["2D", "3D"])
def test_equals_the_overlap_of_voxel_sets(shape):
    generator = torch.Generator().manual_seed(0)
    prediction, truth = torch.rand(2, 4, *shape, generator=generator) > 0.6
    dice = Dice()
    dice.update(prediction, truth)
    expected = [by_sets(*case) for case in zip(prediction, truth, strict=True)]
    assert dice.values().tolist() == pytest.approx(expected)
    assert dice.compute().item() == pytest.approx(sum(expected) / 4)


def test_is_one_for_equal_and_zero_for_disjoint_masks():
    half = torch.zeros(1, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    dice = Dice()
    dice.update(torch.cat([half, half]), torch.cat([half, ~half]))
    assert dice.values().tolist() == [1.0, 0.0]


def test_one_empty_mask_is_zero_and_two_are_left_out():
    empty, full = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    dice = Dice()
    dice.update(torch.cat([empty, full, empty, full]), torch.cat([full, empty, empty, full]))
    assert dice.values()[[0, 1, 3]].tolist() == [0.0, 0.0, 1.0]
    assert dice.values()[2].isnan()
    assert dice.left_out() == 1
    assert dice.compute().item() == pytest.approx(1 / 3)


def test_says_what_it_is():
    assert Dice.unit == ""
    assert Dice().higher_is_better is True
