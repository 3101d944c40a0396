import copy

import pytest
import torch
from torch.testing import assert_close

from lit_continual.callbacks import RWalk
from lit_continual.functional import path_score
from tests.methods.importances import PRECISIONS, batches, network, penalty, weights
from tests.methods.path_spy import Spy


def test_the_score():
    work, fisher = torch.tensor([2.0, -2.0, 2.0]), torch.tensor([4.0, 4.0, 0.0])
    assert_close(path_score(work, fisher, torch.full((3,), 0.5), 0.1), torch.tensor([2 / 0.6, 0.0, 20.0]))


def by_hand(steps, module, fisher, alpha, every, damping=1e-3):
    """The running Fisher information and the score of one fit, step after step."""
    score = {}
    for name in weights(module):
        mine = [step[name] for step in steps if name in step]
        f, s = fisher.get(name, torch.zeros_like(weights(module)[name])), torch.zeros_like(weights(module)[name])
        for k in range(0, len(mine), every):
            part, work = mine[k : k + every], 0
            for gradient, before, after in part:
                f = alpha * gradient**2 + (1 - alpha) * f
                work = work - gradient * (after - before)
            moved = part[-1][2] - part[0][1]
            s = s + work.clamp(min=0) / (0.5 * f * moved**2 + damping)
        fisher[name], score[name] = f, s
    return score


def to_one(values):
    largest = max(value.max() for value in values.values())
    return {name: value / largest for name, value in values.items()}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, 0.2)])
@pytest.mark.parametrize(("alpha", "every"), [(0.9, 4), (0.1, 1)])
def test_three_fits_equal_what_is_written_by_hand(trainer, precision, accumulate, clip, alpha, every):
    callback, module = RWalk(3.0, alpha=alpha, every=every), network()
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip, "max_epochs": 3}
    fisher, old, importance = {}, {}, {}
    for seed in (0, 1, 2):
        start, reference, spy = weights(module), copy.deepcopy(module), Spy()
        reference.extra = penalty([(start, importance)], 3.0) if importance else None
        trainer(**options, **PRECISIONS[precision]()).fit(reference, batches(seed))
        trainer(callbacks=[spy, callback], **options, **PRECISIONS[precision]()).fit(module, batches(seed))
        assert_close(weights(module), weights(reference), rtol=1e-3, atol=1e-4)
        score = by_hand(spy.steps, module, fisher, alpha, every)
        old = {name: (value + old[name]) / 2 if old else value for name, value in score.items()}
        f, s = to_one(fisher), to_one(old)
        importance = {name: f[name] + s[name] for name in f}
        assert_close(callback.importance, importance, rtol=1e-3, atol=1e-5)
        assert all(value.min() >= 0 and value.max() <= 2 for value in callback.importance.values())
    assert torch.equal(callback.importance["unused"], torch.zeros(2))


def test_what_did_not_train_this_time_stays_important(trainer):
    callback, module = RWalk(), network()
    trainer(callbacks=callback).fit(module, batches())
    module.encoder.requires_grad_(False)
    trainer(callbacks=callback).fit(module, batches(1))
    assert callback.importance["encoder.0.weight"].sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, r"`alpha` must be in \(0, 1\], got 0\.0"),
        ({"every": 0}, "`every` and `damping` must be positive, got 0 and 0.001"),
        ({"damping": -1.0}, r"got 10 and -1\.0"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        RWalk(**arguments)
