import copy
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lit_continual.callbacks import SI
from lit_continual.functional import synaptic_importance
from tests.methods.importances import PRECISIONS, Linear, Network, batches, network, penalty, weights
from tests.methods.path_spy import Spy

OPTIMIZERS = {
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}


def by_hand(spy, start, end, damping=0.1):
    found = {}
    for name, after in end.items():
        work = torch.zeros_like(after)
        for step in spy.steps:
            if name in step:
                gradient, before, moved_to = step[name]
                work -= gradient * (moved_to - before)
        found[name] = work.clamp(min=0) / ((after - start[name]) ** 2 + damping)
    return found


def test_the_formula():
    work, moved = torch.tensor([0.2, -0.2, 0.0, 0.3]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert_close(synaptic_importance(work, moved, 0.5), torch.tensor([0.2 / 1.5, 0.0, 0.0, 0.6]))
    with pytest.raises(ValueError, match="`damping` must be positive, got 0"):
        synaptic_importance(work, moved, 0)
    with pytest.raises(ValueError, match=r"`work` has shape \(4,\) and `moved` \(3,\)"):
        synaptic_importance(work, moved[1:])


def test_of_plain_descent_it_is_the_learning_rate_times_squared_gradients(trainer, golden):
    numbers = golden("importance")
    module, callback = Linear(torch.from_numpy(numbers["W"]), lr=0.1), SI(damping=0.3)
    x, y = torch.from_numpy(numbers["X"]).float(), torch.from_numpy(numbers["labels"])
    start = module.layer.weight.detach().clone()
    p = (x @ start.T).softmax(1) - torch.eye(3)[y]
    gradient = p.T @ x / len(x)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7)
    trainer(callbacks=callback).fit(module, loader)
    expected = 0.1 * gradient**2 / ((0.1 * gradient) ** 2 + 0.3)
    assert_close(callback.importance["layer.weight"], expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(callback.importance["unused"], torch.zeros(2))


def test_the_work_of_all_weights_is_what_the_loss_lost(trainer):
    class Watched(SI):
        def importances(self, parameters):
            self.total = sum(work.sum() for work in self.sums["work"].values())
            return super().importances(parameters)

    def loss():
        x, y = batches(size=12).dataset.tensors
        return cross_entropy(module.head(module.encoder(x)), y).item()

    callback, module = Watched(), network(optimizer=partial(torch.optim.SGD, lr=0.002))
    module.head[0].p = 0.0
    before = loss()
    trainer(callbacks=callback, max_epochs=50).fit(module, batches(batch_size=12))
    assert before - loss() > 0.01
    assert callback.total.item() == pytest.approx(before - loss(), rel=0.02)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, 0.2)])
def test_importances_are_those_of_the_steps_that_were_taken(trainer, optimizer, precision, accumulate, clip):
    callback, module, spy = SI(), network(optimizer=OPTIMIZERS[optimizer]), Spy()
    start, options = weights(module), {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    trainer(callbacks=[spy, callback], max_epochs=3, **options, **PRECISIONS[precision]()).fit(module, batches())
    assert len(spy.steps) == 9 // accumulate
    assert_close(callback.importance, by_hand(spy, start, weights(module)), rtol=1e-4, atol=1e-7)


def test_fits_add_up_and_the_penalty_has_no_part_in_the_gradient(trainer):
    callback, module, total = SI(20.0), network(), {}
    for seed in (0, 1):
        start, reference, spy = weights(module), copy.deepcopy(module), Spy()
        reference.extra = penalty([(start, total)], 20.0) if total else None
        trainer(max_epochs=2).fit(reference, batches(seed))
        fitted = trainer(callbacks=[spy, callback], max_epochs=2)
        fitted.fit(module, batches(seed))
        assert_close(weights(module), weights(reference), rtol=1e-4, atol=1e-5)
        new = by_hand(spy, start, weights(module))
        total = {name: value + total.get(name, 0) for name, value in new.items()}
        assert_close(callback.importance, total, rtol=1e-4, atol=1e-6)
    assert fitted.callback_metrics["train/si"] > 0
    assert callback.sums == {}


def test_a_step_that_the_scaler_skips_counts_nothing(trainer):
    class Overflows(Network):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (float("inf") if batch_idx == 1 else 1)

    torch.manual_seed(0)
    callback, module, spy = SI(), Overflows(), Spy()
    start = weights(module)
    trainer(callbacks=[spy, callback], **PRECISIONS["fp16"]()).fit(module, batches())
    del spy.steps[1]
    assert all(value.isfinite().all() for value in callback.importance.values())
    assert_close(callback.importance, by_hand(spy, start, weights(module)), rtol=1e-4, atol=1e-7)


class Manual(Network):
    """Two optimizers, and two steps of one of them in a batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.encoder, self.head)]

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer in (first, second, second):
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()


def test_steps_of_several_optimizers_by_hand(trainer):
    callback, work = SI(), {}
    torch.manual_seed(0)
    module = Manual()
    start = weights(module)

    class Moves(Spy):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            for group in optimizer.param_groups:
                for p in group["params"]:  # of plain descent the move is known
                    name = next(n for n, q in pl_module.named_parameters() if q is p)
                    work[name] = work.get(name, 0) + 0.1 * p.grad**2

    trainer(callbacks=[Moves(), callback]).fit(module, batches())
    for name, value in work.items():
        expected = value / ((weights(module)[name] - start[name]) ** 2 + 0.1)
        assert_close(callback.importance[name], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"damping": 0.0}, "`damping`.*got 0"), ({"strength": -1}, "got -1")]
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        SI(**arguments)
