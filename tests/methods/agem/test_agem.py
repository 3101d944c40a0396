import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from torch.testing import assert_close
from torch.utils.data import DataLoader, StackDataset, TensorDataset

from lit_continual.callbacks import AGEM, LossTerm
from lit_continual.data import Exemplars
from lit_continual.functional import project_gradient
from tests.methods.importances import PRECISIONS, Network, batches, network, weights


@pytest.fixture
def numbers(golden):
    found = golden("importance")
    return {name.removeprefix("agem/"): torch.from_numpy(found[name]) for name in found if name.startswith("agem/")}


def test_the_projection_is_golden(numbers):
    found = project_gradient(numbers["g"], numbers["reference"])
    assert_close(found, numbers["projected"], rtol=1e-12, atol=1e-14)
    assert_close(found @ numbers["reference"], torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(project_gradient(numbers["g"], -numbers["reference"]), numbers["kept"])


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1e30])
def test_the_length_of_the_reference_does_not_matter(numbers, length):
    g, reference = numbers["g"].float(), numbers["reference"].float()
    assert_close(project_gradient(g, length * reference), numbers["projected"].float(), rtol=1e-5, atol=1e-6)


def test_the_projection_is_the_nearest_that_does_not_harm(numbers):
    g, reference = numbers["g"], numbers["reference"]
    distance = (project_gradient(g, reference) - g).norm()
    torch.manual_seed(0)
    for _ in range(200):
        other = g + distance * 0.999 * torch.nn.functional.normalize(torch.randn_like(g), dim=0)
        assert other @ reference < 0


@pytest.mark.parametrize("reference", [[0.0, 0.0, 0.0], [0.0, float("inf"), 1.0], [float("nan")] * 3])
def test_a_reference_that_says_nothing_leaves_the_gradient(reference):
    g = torch.tensor([-1.0, -2.0, 3.0])
    assert torch.equal(project_gradient(g, torch.tensor(reference)), g)


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"shape \(2,\) and `reference` \(3,\)"):
        project_gradient(torch.ones(2), torch.ones(3))


def past(size=6):
    """Samples with the labels of another task, which the new ones contradict."""
    x, y = batches(5, size=size).dataset.tensors
    return x, (y + 1) % 3


@pytest.fixture
def learnt(trainer):
    """What a network is that has learnt the past."""
    module = network()
    trainer(max_epochs=20).fit(module, DataLoader(TensorDataset(*past()), batch_size=6))
    return module.state_dict()


class ByHand(Network):
    """Projects where Lightning has unscaled and not yet clipped."""

    def on_before_optimizer_step(self, optimizer):
        parameters = [p for p in self.parameters() if p is not self.unused]
        with self.trainer.precision_plugin.train_step_context():
            loss = Network.training_step(self, past(), 0)
        reference = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        gradient = torch.cat([p.grad.flatten() for p in parameters])
        product = gradient @ reference
        self.projected.append(bool(product < 0))
        if product < 0:
            gradient -= product / (reference @ reference) * reference
            for p, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
                p.grad.copy_(part.view_as(p))


def still(module):
    """Without dropout, and with statistics that stay, a batch is the sum of its samples."""
    module.encoder[1].eval()
    module.head[0].eval()
    return module


def of(kind, learnt):
    module = kind()
    module.load_state_dict(learnt)
    module.projected = []
    return module


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, 0.5)])
def test_a_fit_equals_the_projection_written_by_hand(trainer, learnt, precision, accumulate, clip):
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip, "max_epochs": 4}
    module, reference = of(Network, learnt), of(ByHand, learnt)
    trainer(**options, **PRECISIONS[precision]()).fit(reference, batches())
    fitted = trainer(callbacks=AGEM(list(zip(*past(), strict=True))), **options, **PRECISIONS[precision]())
    fitted.fit(module, batches())
    assert any(reference.projected)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if precision == "32" else {"rtol": 1e-2, "atol": 5e-3}
    assert_close(dict(module.state_dict()), dict(reference.state_dict()), **tolerance)
    last = reference.projected[-(3 // accumulate) :]
    assert fitted.callback_metrics["train/agem"] == pytest.approx(sum(last) / len(last))


class Marked(Network):
    """Batches that are mappings, as a memory makes them."""

    seen = ()

    def training_step(self, batch, batch_idx):
        self.seen = [*self.seen, *batch["origin"]]
        loss = super().training_step((batch["x"], batch["y"]), batch_idx)
        self.log("loss", loss)
        return loss


def mixed(**options):
    """Each batch has four new samples and two exemplars."""
    (x, y), (old_x, old_y) = batches().dataset.tensors, past()
    samples = []
    for k in range(3):
        samples += [{"x": x[i], "y": y[i], "origin": "new"} for i in range(4 * k, 4 * k + 4)]
        samples += [{"x": old_x[i], "y": old_y[i], "origin": "exemplar"} for i in range(2 * k, 2 * k + 2)]
    return DataLoader(samples, **{"batch_size": 6, **options})


@pytest.mark.filterwarnings("ignore:Found 2 module")  # that are in evaluation mode
def test_exemplars_leave_their_batch_and_are_the_reference(trainer, learnt):
    options = {"accumulate_grad_batches": 3, "max_epochs": 4}  # so that a step has met all exemplars
    module, reference = still(of(Marked, learnt)), still(of(ByHand, learnt))
    trainer(**options).fit(reference, batches())
    fitted = trainer(callbacks=AGEM(), **options)
    fitted.fit(module, mixed())
    assert any(reference.projected)
    assert module.seen.count("new") == 4 * 12
    assert module.seen.count("exemplar") == 4 * 6  # in passes of their own
    assert_close(weights(module), weights(reference), rtol=1e-4, atol=1e-5)


def test_what_training_logs_is_of_the_new_samples(trainer):
    plain, module = Marked(), Marked()
    module.load_state_dict(plain.state_dict())
    (x, y), logged = batches(size=4).dataset.tensors, []
    new = DataLoader([{"x": a, "y": b, "origin": "new"} for a, b in zip(x, y, strict=True)], batch_size=4)
    old = [{"x": a, "y": b, "origin": "new"} for a, b in zip(*past(), strict=True)]
    for one, callbacks in ((plain, None), (module, AGEM(old, batch_size=4))):
        fitted = trainer(callbacks=callbacks)
        fitted.fit(one, new)
        logged.append(fitted.callback_metrics["loss"])
    assert_close(*logged, rtol=0, atol=0)


class Huge(LossTerm):
    name = "huge"

    def compute(self, pl_module, batch, outputs):
        return 1e3 * sum(p.square().sum() for p in pl_module.parameters())


def test_terms_of_others_are_part_of_the_gradient_and_not_of_the_reference(trainer):
    old, found = list(zip(*past(), strict=True)), []
    for callbacks in ([Huge()], [Huge(), AGEM(old)]):
        module = network(optimizer=lambda p: torch.optim.SGD(p, lr=1e-5))
        trainer(callbacks=callbacks).fit(module, batches(size=4))
        found.append([p.grad for p in module.parameters()])
    plain = network()
    plain.training_step(past(), 0).backward()
    dot = sum((g * p.grad).sum() for g, p in zip(found[1], plain.parameters(), strict=True) if p.grad is not None)
    before = sum((g * p.grad).sum() for g, p in zip(found[0], plain.parameters(), strict=True) if p.grad is not None)
    assert before.abs() > 1
    assert dot > -1e-2 * before.abs()


def test_a_parameter_of_neither_loss_keeps_no_gradient_and_one_of_the_past_gets_one(trainer):
    class TwoHeads(Network):
        def __init__(self):
            super().__init__()
            self.old = copy.deepcopy(self.head)

        def training_step(self, batch, batch_idx):
            head = self.old if batch[1][0] < 0 else self.head
            return torch.nn.functional.cross_entropy(head(self.encoder(batch[0])), batch[1].abs() % 3)

        def on_before_optimizer_step(self, optimizer):
            had.append([p.grad is not None for p in (self.old[1].weight, self.unused)])

    torch.manual_seed(0)
    (x, y), had = past(), []
    trainer(callbacks=AGEM(list(zip(x, -y - 3, strict=True))), max_epochs=20).fit(TwoHeads(), batches())
    old, unused = zip(*had, strict=True)
    assert set(old) == {True, False}  # in the steps that were projected
    assert not any(unused)


def test_the_draw_depends_on_seed_and_step_alone(trainer):
    class Draws(AGEM):
        def _draw(self, trainer):
            drawn = super()._draw(trainer)
            self.drawn.append(drawn[0])
            return drawn

    found = []
    for _ in range(2):
        callback = Draws(StackDataset(*past(12)), batch_size=2)
        callback.drawn = []
        trainer(callbacks=callback).fit(network(len(found)), batches(shuffle=True))
        found.append(callback.drawn)
    assert_close(*found, rtol=0, atol=0)
    assert not torch.equal(found[0][0], found[0][1])
    assert [len(drawn) for drawn in found[0]] == [2, 2, 2]


def test_refuses_what_it_cannot_project(trainer):
    exemplars = DataLoader([{**sample, "origin": "exemplar"} for sample in mixed().dataset], batch_size=4)
    with pytest.raises(MisconfigurationException, match=r"exemplars alone\. Set `batches: mixed`"):
        trainer(callbacks=AGEM()).fit(Marked(), exemplars)
    data = LightningDataModule.from_datasets(mixed().dataset)  # the first fit of a stream: there are no exemplars yet
    data.exemplars = Exemplars(batches="pure")
    with pytest.raises(MisconfigurationException, match=r"exemplars alone\. Set `batches: mixed`"):
        trainer(callbacks=AGEM()).fit(Marked(), data)
    manual = network()
    manual.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match=r"that of Network steps its optimizers"):
        trainer(callbacks=AGEM()).fit(manual, batches())
    fused = network(optimizer=lambda p: torch.optim.Adam(p, fused=True))
    with pytest.raises(MisconfigurationException, match=r"`AGEM` edits gradients.*Set `fused=False`, or"):
        trainer(callbacks=AGEM(), **PRECISIONS["fp16"]()).fit(fused, batches())
    with pytest.raises(ValueError, match="`batch_size` must be positive, got 0"):
        AGEM(batch_size=0)
    with pytest.raises(ValueError, match="`reference` is empty"):
        AGEM([])
