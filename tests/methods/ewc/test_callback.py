import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lit_continual.callbacks import EWC, L2SP, LossTerm
from tests.methods.importances import (
    PRECISIONS,
    Linear,
    Network,
    batches,
    by_sample,
    golden_data,
    network,
    penalty,
    weights,
)


def fisher(module, loader):
    return by_sample(module, loader, lambda m, x, y: cross_entropy(m(x), y), torch.square)


class Huge(LossTerm):
    """A term of somebody else, which has no part in what the data say."""

    name = "huge"

    def compute(self, pl_module, batch, outputs):
        return 1e3 * sum(p.square().sum() for p in pl_module.parameters())


@pytest.fixture
def numbers(golden):
    return golden("importance")


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ({"batch_size": 1}, {}),
        ({"batch_size": 7}, {}),
        ({"batch_size": 2, "shuffle": True, "drop_last": True}, {"max_epochs": 2}),
        ({}, {"accumulate_grad_batches": 3, "gradient_clip_val": 1e-3}),
        ({}, PRECISIONS["bf16"]()),
        ({}, PRECISIONS["fp16"]()),
        ({}, {"callbacks": [Huge()]}),
        ({"num_workers": 1}, {}),
    ],
    ids=["one by one", "all at once", "dropped", "accumulated", "bf16", "scaled", "another term", "workers"],
)
@pytest.mark.parametrize("labels", ["given", "expected"])
def test_importances_are_golden_whatever_training_is_like(trainer, numbers, labels, data, options):
    callback, module = EWC(labels=labels), Linear(torch.from_numpy(numbers["W"]))
    others = options.get("callbacks", [])
    trainer(**{**options, "callbacks": [*others, callback]}).fit(module, golden_data(numbers, **data))
    expected = torch.from_numpy(numbers[f"fisher_{labels}"]).float()
    assert_close(callback.importance["layer.weight"], expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(callback.importance["unused"], torch.zeros(2))


def test_samples_bound_the_measurement_and_are_the_same_each_time(trainer, numbers):
    found = [EWC(samples=3) for _ in range(2)]
    for callback in found:
        trainer(callbacks=callback).fit(Linear(torch.from_numpy(numbers["W"])), golden_data(numbers, shuffle=True))
    one, two = (callback.importance["layer.weight"] for callback in found)
    assert torch.equal(one, two)
    by_number = [
        by_sample(
            Linear(torch.from_numpy(numbers["W"])),
            golden_data({"X": numbers["X"][[k]], "labels": numbers["labels"][[k]]}),
            lambda m, x, y: cross_entropy(m(x), y),
            torch.square,
        )["layer.weight"]
        for k in range(7)
    ]
    means = [sum(by_number[k] for k in chosen) / 3 for chosen in torch.combinations(torch.arange(7), 3).tolist()]
    assert sum(torch.allclose(one, mean, rtol=1e-5) for mean in means) == 1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, 0.5)])
def test_a_second_fit_equals_the_penalty_written_by_hand(trainer, precision, accumulate, clip):
    callback, module = EWC(strength=40.0), network()
    trainer(callbacks=callback).fit(module, batches())
    by_hand = copy.deepcopy(module)
    by_hand.extra = penalty([(weights(module), fisher(module, batches()))], 20.0)
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip, "max_epochs": 2}
    trainer(**options, **PRECISIONS[precision]()).fit(by_hand, batches(1))
    trainer(callbacks=callback, **options, **PRECISIONS[precision]()).fit(module, batches(1))
    assert_close(weights(module), weights(by_hand), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "decay"), [("separate", 1.0), ("online", 1.0), ("online", 0.5)])
def test_a_third_fit_has_the_penalties_of_two(trainer, mode, decay):
    callback, module = EWC(30.0, mode=mode, decay=decay), network()
    found = []
    for seed in (0, 1):
        trainer(callbacks=callback).fit(module, batches(seed))
        found.append((weights(module), fisher(module, batches(seed))))
    if mode == "online":  # one anchor, the last
        sums = {name: decay * found[0][1][name] + found[1][1][name] for name in found[0][1]}
        found = [(found[1][0], sums)]
    with torch.no_grad():
        for p in module.parameters():
            p += 0.1
    by_hand, term = copy.deepcopy(module), penalty(found, 15.0)
    by_hand.extra, before = term, term(module).detach()
    trainer().fit(by_hand, batches(2))
    once = copy.deepcopy(module)
    logged = trainer(callbacks=copy.deepcopy(callback))
    logged.fit(once, batches(2, size=4))
    trainer(callbacks=callback).fit(module, batches(2))
    assert_close(weights(module), weights(by_hand), rtol=1e-4, atol=1e-5)
    assert_close(logged.callback_metrics["train/ewc"], before, rtol=1e-4, atol=1e-6)


def test_what_the_data_do_not_need_moves_and_the_rest_stays(trainer):
    callback, module = EWC(1e6), network(optimizer=lambda p: torch.optim.SGD(p, lr=1e-7))
    trainer(callbacks=callback).fit(module, batches())
    assert callback.importance["unused"].sum() == 0
    before = weights(module)
    with torch.no_grad():
        module.unused += 1
    module.optimizer = lambda p: torch.optim.SGD(p, lr=0.1)
    trainer(callbacks=[callback]).fit(module, batches(1, size=4))
    assert torch.equal(module.unused, before["unused"] + 1)


def test_random_numbers_and_the_module_are_left_as_plain_training_leaves_them(trainer):
    plain, module, random = network(), network(), []
    for one, callbacks in ((plain, None), (module, EWC(labels="sampled"))):
        torch.manual_seed(1)
        trainer(callbacks=callbacks, max_epochs=2).fit(one, batches(shuffle=True))
        random.append(torch.get_rng_state())
    assert torch.equal(*random)
    assert_close(dict(module.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    assert_close([p.grad for p in module.parameters()], [p.grad for p in plain.parameters()], rtol=0, atol=0)


def test_exemplars_are_left_out_they_had_their_fit(trainer):
    class Marked(Network):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["x"], batch["y"]), batch_idx)

    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    samples = [{"x": one, "y": one[:3].argmax(), "origin": ["new", "exemplar"][k % 2]} for k, one in enumerate(x)]
    loader = torch.utils.data.DataLoader(samples, batch_size=2)
    torch.manual_seed(0)
    callback, module = EWC(), Marked(lambda p: torch.optim.SGD(p, lr=0.0))
    trainer(callbacks=callback).fit(module, loader)
    new = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[::2], x[::2, :3].argmax(1)))
    assert_close(callback.importance, fisher(module, new), rtol=1e-5, atol=1e-7)


def test_batches_that_the_data_set_makes_are_taken_apart(trainer):
    (x, y), module = batches().dataset.tensors, network(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    whole = torch.utils.data.DataLoader([(x[:5], y[:5]), (x[5:], y[5:])], batch_size=None)
    callback = EWC()
    trainer(callbacks=callback).fit(module, whole)
    assert_close(callback.importance, fisher(module, batches()), rtol=1e-5, atol=1e-7)


def test_what_cannot_be_taken_apart_is_refused_in_the_first_batch(trainer):
    class Odd(Network):
        def training_step(self, batch, batch_idx):
            return super().training_step(next(iter(batches())), batch_idx)

    loader = torch.utils.data.DataLoader([(torch.zeros(4, 2), torch.zeros(3))], batch_size=None)
    with pytest.raises(MisconfigurationException, match=r"one by one.*list.*DataLoader of a data set with a length"):
        trainer(callbacks=EWC()).fit(Odd(), loader)


def test_a_network_that_answers_otherwise_in_evaluation_is_refused_in_the_first_batch(trainer):
    class Supervised(Network):
        def forward(self, x):
            found = super().forward(x)
            return [found, found] if self.training else found

        def training_step(self, batch, batch_idx):
            first, second = self(batch[0])
            return cross_entropy(first, batch[1]) + cross_entropy(second, batch[1])

    module = Supervised()
    before = weights(module)
    with pytest.raises(MisconfigurationException, match=r"could not measure.*Supervised in evaluation mode.*`logits="):
        trainer(callbacks=EWC()).fit(module, batches())
    assert_close(weights(module), before, rtol=0, atol=0)
    callback = EWC(labels="sampled", logits=lambda m, batch: Network.forward(m, batch[0]))
    trainer(callbacks=callback).fit(module, batches())
    assert callback.importance["head.1.weight"].sum() > 0


def test_samples_that_only_their_loader_can_tell_apart_are_measured(trainer):
    class Bags(Network):
        """A batch is all items of some bags, and where each bag begins."""

        def training_step(self, batch, batch_idx):
            x, starts, y = batch
            bags = torch.tensor_split(x, starts[1:].tolist())
            return cross_entropy(torch.cat([self(bag).mean(0, keepdim=True) for bag in bags]), y)

    def collate(bags):
        sizes = torch.tensor([len(x) for x, _ in bags])
        return torch.cat([x for x, _ in bags]), sizes.cumsum(0) - sizes, torch.stack([y for _, y in bags])

    torch.manual_seed(0)
    bags = [(torch.randn(size, 4), torch.tensor(size % 3)) for size in (3, 4, 5, 2)]
    callback, module = EWC(), Bags(lambda p: torch.optim.SGD(p, lr=0.0))
    trainer(callbacks=callback).fit(module, torch.utils.data.DataLoader(bags, batch_size=2, collate_fn=collate))
    found, module = [], copy.deepcopy(module).eval()
    for bag in bags:
        found.append(torch.autograd.grad(module.training_step(collate([bag]), 0), module.head[1].weight)[0] ** 2)
    assert_close(callback.importance["head.1.weight"], torch.stack(found).mean(0), rtol=1e-5, atol=1e-7)


def test_where_nothing_trains_nothing_is_measured(trainer):
    callback, module = EWC(parameters="encoder"), network()
    trainer(callbacks=callback).fit(module, batches())
    before = dict(callback.importance)
    module.encoder.requires_grad_(False)
    trainer(callbacks=callback).fit(module, batches(1))
    assert_close(callback.importance, before, rtol=0, atol=0)


def test_a_sample_whose_gradient_is_not_finite_is_left_out(trainer):
    class Spoilt(Network):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss if self.training or batch[0][0, 0] > 0 else loss * float("nan")

    torch.manual_seed(0)
    callback, module = EWC(), Spoilt(lambda p: torch.optim.SGD(p, lr=0.0))
    x, y = batches().dataset.tensors
    kept = x[:, 0] > 0
    with pytest.warns(UserWarning, match=rf"leaves out {int((~kept).sum())} samples whose gradient is not finite"):
        trainer(callbacks=callback).fit(module, batches())
    sound = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[kept], y[kept]))
    assert_close(callback.importance, fisher(module, sound), rtol=1e-5, atol=1e-7)


def test_a_sample_that_the_network_answers_with_nan_is_left_out_where_labels_are_drawn(trainer):
    class Lost(Network):
        def forward(self, x):
            return super().forward(x) * (1.0 if self.training or x[0, 0] > 0 else float("nan"))

    callback, positive = EWC(labels="sampled"), (batches().dataset.tensors[0][:, 0] > 0).sum()
    with pytest.warns(UserWarning, match=rf"leaves out {12 - positive} samples whose gradient is not finite"):
        trainer(callbacks=callback).fit(Lost(), batches())
    assert all(value.isfinite().all() for value in callback.importance.values())


class Manual(Network):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_a_step_that_moves_the_weights_itself_is_not_asked(trainer):
    with pytest.raises(MisconfigurationException, match=r"manual optimization steps its optimizers.*`logits=`"):
        trainer(callbacks=EWC()).fit(Manual(), batches())
    torch.manual_seed(0)
    callback, module = EWC(50.0, labels="expected", logits=lambda m, batch: m(batch[0])), Manual()
    trainer(callbacks=callback).fit(module, batches())
    by_hand = copy.deepcopy(module)
    by_hand.extra = penalty([(weights(module), dict(callback.importance))], 25.0)
    trainer().fit(by_hand, batches(1))
    trainer(callbacks=callback).fit(module, batches(1))
    assert_close(weights(module), weights(by_hand), rtol=1e-4, atol=1e-6)


class Grown(Network):
    """Two classes more in the same layer, and a new head."""

    def __init__(self, old):
        super().__init__()
        self.load_state_dict(old.state_dict())
        row = self.head[1]
        self.head[1] = nn.Linear(5, 5)
        with torch.no_grad():
            self.head[1].weight[:3], self.head[1].bias[:3] = row.weight, row.bias
        self.other = nn.Linear(5, 2)


def test_old_rows_are_held_and_new_ones_and_new_heads_are_free(trainer):
    callback, module = EWC(1e3), network()
    trainer(callbacks=callback).fit(module, batches())
    importance, grown = dict(callback.importance), Grown(module)
    start, by_hand = weights(grown), copy.deepcopy(grown)
    wide = {name: torch.zeros_like(p) for name, p in grown.named_parameters()}
    for name, value in importance.items():
        wide[name][: len(value)] = value
    by_hand.extra = penalty([(start, wide)], 500.0)
    trainer().fit(by_hand, batches(1))
    trainer(callbacks=callback).fit(grown, batches(1))
    assert_close(weights(grown), weights(by_hand), rtol=1e-4, atol=1e-5)
    assert callback.importance["head.1.weight"].shape == (5, 5)
    assert "other.weight" in callback.importance


def test_a_parameter_that_shrank_or_is_gone_is_named(trainer):
    callback, module = EWC(), network()
    trainer(callbacks=callback).fit(module, batches())
    smaller, gone = copy.deepcopy(module), copy.deepcopy(module)
    smaller.head[1] = nn.Linear(5, 2)
    with pytest.raises(ValueError, match=r"`head\.1\.weight` has shape \(2, 5\), and its anchor \(3, 5\)"):
        trainer(callbacks=callback).fit(smaller, batches(1))
    del gone.unused
    with pytest.raises(ValueError, match="`unused` has an anchor and is no longer"):
        trainer(callbacks=callback).fit(gone, batches(1))


def test_a_layer_that_is_frozen_keeps_its_importance(trainer):
    callback, module = EWC(), network()
    trainer(callbacks=callback).fit(module, batches())
    before = callback.importance["encoder.0.weight"].clone()
    module.encoder.requires_grad_(False)
    trainer(callbacks=callback).fit(module, batches(1))
    assert torch.equal(callback.importance["encoder.0.weight"], before)


def test_only_the_parameters_that_are_named_are_held(trainer):
    callback = EWC(parameters="encoder.*.weight")
    trainer(callbacks=callback).fit(network(), batches())
    assert set(callback.importance) == {"encoder.0.weight", "encoder.1.weight"}


def test_stands_beside_other_penalties(trainer):
    callbacks, module = [EWC(10.0), L2SP(0.3, parameters="*", anchor="last_fit")], network()
    trainer(callbacks=callbacks).fit(module, batches())
    by_hand, start = copy.deepcopy(module), weights(module)
    pull = {name: torch.full_like(p, 0.3) for name, p in start.items()}
    terms = penalty([(start, fisher(module, batches()))], 5.0), penalty([(start, pull)], 1.0)
    by_hand.extra = lambda m: sum(term(m) for term in terms)
    trainer().fit(by_hand, batches(1))
    trainer(callbacks=callbacks[::-1]).fit(module, batches(1))
    assert_close(weights(module), weights(by_hand), rtol=1e-4, atol=1e-5)


def test_refuses_scaled_gradients_of_a_fused_optimizer(trainer):
    module = network(optimizer=lambda p: torch.optim.Adam(p, fused=True))
    with pytest.raises(MisconfigurationException, match=r"`EWC` edits gradients.*Set `fused=False`, or"):
        trainer(callbacks=EWC(), **PRECISIONS["fp16"]()).fit(module, batches())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -1.0}, r"`strength` must be 0 or more and finite, got -1\.0"),
        ({"strength": float("inf")}, "got inf"),
        ({"decay": 1.5}, r"`decay` must be in \[0, 1\], got 1\.5"),
        ({"labels": "true"}, "`labels` must be 'given', 'sampled' or 'expected', got 'true'"),
        ({"mode": "both"}, "`mode` must be 'separate' or 'online', got 'both'"),
        ({"samples": 0}, "`samples` must be positive, or None for all training samples, got 0"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        EWC(**arguments)
