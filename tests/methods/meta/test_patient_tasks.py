import math

import pytest
import torch

from lit_continual.data import patient_tasks

NAN = math.nan


def test_active_takes_the_worst_of_each_group_first():
    dice = dict(enumerate([0.9, 0.1, 0.6, 0.3, 0.8, 0.2]))
    assert patient_tasks(dice) == [([1], [5]), ([2], [4])]
    assert patient_tasks(dice, shots=2) == [([1, 3], [5]), ([2, 0], [4])]
    assert patient_tasks(dice, threshold=0.0, tasks=2) == [([1], [5]), ([3], [2])]


def test_ties_go_to_the_lowest_slice():
    assert patient_tasks({7: 0.2, 3: 0.2, 5: 0.2, 1: 0.2}) == [([1], [3])]


def test_turns_walk_through_the_order_and_start_again():
    dice = {index: index / 10 for index in range(5)}
    drawn = [patient_tasks(dice, threshold=1.0, turn=turn) for turn in range(3)]
    assert drawn == [[([0], [1])], [([2], [3])], [([0], [1])]]


@pytest.mark.parametrize("order", ["active", "passive"])
@pytest.mark.parametrize("shots", [1, 2, 3])
@pytest.mark.parametrize("tasks", [1, 3])
def test_no_slice_is_in_two_places_and_no_task_mixes_groups(order, shots, tasks):
    generator = torch.Generator().manual_seed(0)
    for size in range(2, 20):
        dice = dict(enumerate(torch.rand(size, generator=generator).tolist()))
        episode = patient_tasks(dice, 0.4, order, tasks, shots, generator=generator)
        used = [index for inner, outer in episode for index in [*inner, *outer]]
        assert len(used) == len(set(used)) > 0
        assert all(0 < len(part) <= shots for task in episode for part in task)
        sides = [{dice[index] >= 0.4 for index in [*inner, *outer]} for inner, outer in episode]
        alone = 1 in (sum(d >= 0.4 for d in dice.values()), sum(d < 0.4 for d in dice.values()))
        assert alone or all(len(side) == 1 for side in sides)


def test_passive_reaches_every_slice_and_repeats_with_its_seed():
    dice = dict(enumerate([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]))

    def draw(seed):
        return patient_tasks(dice, order="passive", generator=torch.Generator().manual_seed(seed))

    assert draw(3) == draw(3)
    assert {index for seed in range(40) for task in draw(seed) for part in task for index in part} == set(dice)


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ({}, []),
        ({4: 0.3}, []),
        ({4: 0.3, 5: NAN}, []),
        ({4: NAN, 5: NAN}, []),
        ({4: 0.8, 5: 0.9}, [([4], [5])]),
        ({4: 0.2, 5: 0.1}, [([5], [4])]),
        ({4: 0.9, 5: 0.1}, [([5], [4])]),
        ({4: 0.9, 5: 0.1, 6: 0.2, 7: NAN}, [([5], [6])]),
        ({4: 0.5, 5: 0.5, 6: 0.4, 7: 0.4}, [([6], [7]), ([4], [5])]),
    ],
    ids=["none", "one", "one scored", "no foreground", "all good", "all bad", "one each", "lone good", "at threshold"],
)
def test_empty_cases(dice, expected):
    assert patient_tasks(dice) == expected
