import pickle
from math import nan

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from lit_continual.metrics import ResultMatrix


def filled(cells, experiences=3):
    result = ResultMatrix(experiences)
    for (after, on), score in cells.items():
        result.update(after, on, score)
    return result


def matrix(cells, experiences=3):
    expected = torch.full((experiences, experiences), nan, dtype=torch.float64)
    for cell, score in cells.items():
        expected[cell] = score
    return expected


def assert_holds(result, cells):
    assert_close(result.compute(), matrix(cells), rtol=0, atol=0, equal_nan=True)


def test_rows_are_trained_and_columns_evaluated_and_the_rest_is_nan():
    assert_holds(filled({(0, 0): 0.9, (1, 0): 0.5, (0, 2): 0.0}), {(0, 0): 0.9, (1, 0): 0.5, (0, 2): 0.0})


@pytest.mark.parametrize("call", [ResultMatrix.update, ResultMatrix.__call__], ids=["update", "forward"])
@pytest.mark.parametrize("score", [0.25, nan, torch.tensor(0.5)], ids=str)
def test_the_last_value_of_a_cell_wins(call, score):
    result = filled({(0, 0): 0.9, (1, 1): 0.7})
    result.compute()
    call(result, 0, 0, score)
    assert_holds(result, {(0, 0): float(score), (1, 1): 0.7})


def test_one_experience_still_makes_a_matrix():
    result = filled({(0, 0): 0.5}, experiences=1)
    assert result.compute().shape == (1, 1)
    assert pickle.loads(pickle.dumps(result)).compute().shape == (1, 1)


def test_reset_empties_all_cells():
    result = filled({(0, 0): 0.9})
    result.reset()
    result.update(1, 1, 0.5)
    assert_holds(result, {(1, 1): 0.5})


def test_earlier_results_do_not_change_with_later_updates():
    result = filled({(0, 0): 0.9})
    computed, state = result.compute(), result.state_dict()
    result.update(0, 0, 0.1)
    assert_close(computed, matrix({(0, 0): 0.9}), rtol=0, atol=0, equal_nan=True)
    assert_close(state["matrix"], computed, rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_holds_the_cells(tmp_path):
    torch.save(filled({(0, 0): 0.9}).state_dict(), tmp_path / "result.pt")
    state = torch.load(tmp_path / "result.pt", weights_only=True)
    result = ResultMatrix(3)
    result.load_state_dict(state)
    assert_holds(result, {(0, 0): 0.9})  # and warns of nothing, though `update` was not called
    result.update(0, 0, 0.1)
    assert state["matrix"][0, 0] == 0.9


def test_merging_fills_gaps_and_keeps_its_own():
    other = filled({(0, 0): 0.1, (1, 1): 0.7})
    for incoming in (other, other.metric_state):
        result = filled({(0, 0): 0.9, (2, 2): 0.3})
        result.merge_state(incoming)
        assert_holds(result, {(0, 0): 0.9, (1, 1): 0.7, (2, 2): 0.3})


def test_pickling_keeps_the_cells():
    assert_holds(pickle.loads(pickle.dumps(filled({(1, 0): 0.5}))), {(1, 0): 0.5})


@pytest.mark.parametrize("name", ["after", "on"])
@pytest.mark.parametrize("index", [-1, 3])
def test_rejects_an_experience_that_is_not_in_the_stream(name, index):
    with pytest.raises(ValueError, match=f"`{name}` must be from 0 to 2 in a stream of 3 experiences, and is {index}"):
        ResultMatrix(3).update(**{"after": 0, "on": 0, name: index}, score=0.5)


def test_rejects_a_stream_without_experiences():
    with pytest.raises(ValueError, match="`num_experiences` must be at least 1, and is 0"):
        ResultMatrix(0)


def rank_results(rank, file, out):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    result = filled([{(0, 0): 0.9, (1, 0): 0.4}, {(1, 0): 0.5}][rank])
    torch.save(result.compute(), f"{out}{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_over_processes_the_highest_rank_with_a_value_wins(tmp_path):
    torch.multiprocessing.spawn(rank_results, (tmp_path / "store", tmp_path / "rank"), nprocs=2)
    for rank in range(2):
        computed = torch.load(tmp_path / f"rank{rank}", weights_only=True)
        assert_close(computed, matrix({(0, 0): 0.9, (1, 0): 0.5}), rtol=0, atol=0, equal_nan=True)
