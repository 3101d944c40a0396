import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.testing import assert_close

from lit_continual.callbacks import MAS
from lit_continual.functional import memory_aware_importance
from tests.methods.importances import (
    PRECISIONS,
    Linear,
    Network,
    batches,
    by_sample,
    golden_data,
    network,
    penalty,
    slopes,
    weights,
)


def norm(module, x, y):
    return module(x).square().sum(1).mean()


@pytest.fixture
def numbers(golden):
    return golden("importance")


def test_the_importance_is_golden(numbers):
    w = torch.from_numpy(numbers["W"]).requires_grad_()
    found = memory_aware_importance(torch.from_numpy(numbers["X"]) @ w.T, {"W": w})["W"]
    assert_close(found, torch.from_numpy(numbers["mas"]), rtol=1e-12, atol=0)
    assert not torch.allclose(found, torch.from_numpy(numbers["wrong/mas_of_batch_gradient"]), rtol=0.1)


def test_voxels_count_by_their_mean_and_what_has_no_part_does_not():
    torch.manual_seed(0)
    layer, unused, x = nn.Conv2d(1, 3, 3), torch.ones(2, requires_grad=True), torch.randn(2, 1, 6, 7)
    found = memory_aware_importance(layer(x), {"weight": layer.weight, "unused": unused})
    gradients = [torch.autograd.grad(layer(one[None]).square().sum() / 20, layer.weight)[0] for one in x]
    assert_close(found["weight"], torch.stack(gradients).abs().mean(0))
    assert torch.equal(found["unused"], torch.zeros(2))


def test_agrees_with_finite_differences():
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double(), torch.randn(4, 2).double()
    found = memory_aware_importance(layer(x), dict(layer.named_parameters()))
    for name, i, slope in slopes(layer, lambda m: m(x).square().sum(1)):
        assert_close(found[name].view(-1)[i], slope.abs().mean(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ({"batch_size": 7}, {}),
        ({"batch_size": 2, "shuffle": True, "drop_last": True}, {"accumulate_grad_batches": 3}),
        ({}, PRECISIONS["bf16"]()),
        ({}, PRECISIONS["fp16"]()),
    ],
    ids=["all at once", "dropped, accumulated", "bf16", "scaled"],
)
def test_importances_are_golden_whatever_training_is_like(trainer, numbers, data, options):
    callback, module = MAS(), Linear(torch.from_numpy(numbers["W"]))
    trainer(callbacks=callback, **options).fit(module, golden_data(numbers, **data))
    assert_close(callback.importance["layer.weight"], torch.from_numpy(numbers["mas"]).float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_third_fit_equals_the_penalty_written_by_hand(trainer, decay):
    callback, module, total = MAS(0.2, decay=decay), network(), {}
    for seed in (0, 1):
        trainer(callbacks=callback).fit(module, batches(seed))
        new = by_sample(module, batches(seed), norm, torch.abs)
        total = {name: decay * total.get(name, 0) + value for name, value in new.items()}
    by_hand = copy.deepcopy(module)
    by_hand.extra = penalty([(weights(module), total)], 0.2)
    options = {"max_epochs": 2, "accumulate_grad_batches": 3, "gradient_clip_val": 0.5}
    trainer(**options).fit(by_hand, batches(2))
    trainer(callbacks=callback, **options).fit(module, batches(2))
    assert_close(weights(module), weights(by_hand), rtol=1e-4, atol=1e-5)


class TwoOutputs(Network):
    def forward(self, x):
        found = super().forward(x)
        return found.mean(), found, found[:, :1]

    def training_step(self, batch, batch_idx):
        _, logits, _ = self(batch[0])
        return {"loss": nn.functional.cross_entropy(logits, batch[1]), **self.named(logits)}

    def named(self, logits):
        return {}


def test_of_several_outputs_the_step_names_the_one_or_the_user_does(trainer):
    class Named(TwoOutputs):
        def named(self, logits):
            return {"logits": logits.detach()}

    still = [lambda p: torch.optim.SGD(p, lr=0.0)]
    with pytest.raises(MisconfigurationException, match=r"one cannot tell the logits.*Give `logits="):
        trainer(callbacks=MAS()).fit(TwoOutputs(*still), batches())
    torch.manual_seed(0)
    module, callbacks = Named(*still), [MAS(), MAS(logits=lambda m, batch: m(batch[0])[1], name="b")]
    trainer(callbacks=callbacks).fit(module, batches())
    expected = by_sample(module, batches(), lambda m, x, y: norm(lambda x: m(x)[1], x, y), torch.abs)
    for callback in callbacks:
        assert_close(callback.importance, expected, rtol=1e-5, atol=1e-7)


def test_a_step_without_forward_and_logits_is_told_what_to_give(trainer):
    class Hidden(Network):
        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.head(self.encoder(batch[0])), batch[1])

    with pytest.raises(MisconfigurationException, match=r"Hidden neither calls `forward` nor.*Give `logits="):
        trainer(callbacks=MAS()).fit(Hidden(), batches())
