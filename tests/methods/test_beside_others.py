"""Methods beside callbacks of Lightning, beside one another, and in projects that were not written for them."""

import threading

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lit_continual.callbacks import (
    AGEM,
    EWC,
    L2SP,
    MAS,
    SI,
    DarkExperienceReplay,
    Distillation,
    RWalk,
    TrainOnly,
    WeightFusion,
)
from tests.methods.importances import Network, batches, by_sample, network, weights
from tests.methods.path_spy import Spy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* has no old network"),
    pytest.mark.filterwarnings("ignore:.* met no exemplar"),
]
FIRST = "encoder.0.weight"


class Thaw(BaseFinetuning):
    """The encoder is frozen in the first epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.encoder, train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.encoder, optimizer, lr=0.1)


class Trained(Network):
    """An optimizer of what is not frozen, as `BaseFinetuning` wants it."""

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class Gradients(Callback):
    """The gradient and the weight of a layer before each step that it has a gradient in."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        p = pl_module.get_parameter(FIRST)
        if p.grad is not None:
            self.seen.append((p.grad.clone(), p.detach().clone()))


@pytest.mark.parametrize("make", [lambda: EWC(1e3), lambda: MAS(3.0), lambda: SI(3.0), lambda: RWalk(0.3)])
def test_what_is_freed_in_the_middle_of_a_fit_is_held_from_then_on(make, trainer):
    torch.manual_seed(0)
    module, callback, before, after = Trained(), make(), Gradients(), Gradients()
    trainer(callbacks=callback).fit(module, batches())
    importance, anchor = callback.importance[FIRST].clone(), weights(module)[FIRST]
    trainer(callbacks=[Thaw(), before, callback, after], max_epochs=2).fit(module, batches(1))
    assert len(before.seen) == 3  # of the second epoch
    for (loss, weight), (total, _) in zip(before.seen, after.seen, strict=True):
        pull = 2 * callback.factor * callback.strength * importance * (weight - anchor)
        assert_close(total - loss, pull, rtol=1e-3, atol=1e-6)
    assert pull.abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
def test_the_way_of_what_is_freed_in_the_middle_of_a_fit_is_followed(trainer):
    torch.manual_seed(0)
    module, path, walk, spy = Trained(), SI(), RWalk(every=1), Spy()
    start = weights(module)[FIRST]
    trainer(callbacks=[Thaw(), spy, path, walk], max_epochs=2).fit(module, batches())
    steps = [step[FIRST] for step in spy.steps if FIRST in step]
    assert len(steps) == 3
    work, fisher = torch.zeros_like(start), torch.zeros_like(start)
    for gradient, old, new in steps:
        work, fisher = work + gradient * (old - new), 0.9 * gradient**2 + 0.1 * fisher
    moved = weights(module)[FIRST] - start
    assert_close(path.importance[FIRST], work.relu() / (moved**2 + 0.1), rtol=1e-4, atol=1e-7)
    assert_close(walk.sums["fisher"][FIRST], fisher, rtol=1e-4, atol=1e-9)
    assert walk.sums["old score"][FIRST].max() > 0


@pytest.mark.parametrize("first", [True, False])
def test_what_a_fit_leaves_is_the_fused_network_wherever_fusion_stands(first, trainer):
    module, others = network(), [L2SP(0.1, "*", anchor="last_fit"), EWC(mode="online"), SI()]
    start, spy = weights(module), Spy()
    fusion = WeightFusion(0.5, old="start")
    trainer(callbacks=[fusion, *others, spy] if first else [*others, fusion, spy]).fit(module, batches())
    for callback in others:
        assert_close(callback.state_dict()["anchor"], weights(module), rtol=0, atol=0)
    fisher = by_sample(module, batches(), lambda m, x, y: cross_entropy(m.head(m.encoder(x)), y), torch.square)
    assert_close(others[1].importance, fisher, rtol=1e-3, atol=1e-7)
    work = sum(g * (old - new) for g, old, new in (step[FIRST] for step in spy.steps))
    trained = spy.steps[-1][FIRST][2]  # the way of training, which no fusion has gone
    assert_close(others[2].importance[FIRST], work.relu() / ((trained - start[FIRST]) ** 2 + 0.1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("first", [True, False])
def test_what_is_held_does_not_count_in_clipping_wherever_its_callback_stands(first, trainer, tmp_path):
    module, found = network(), []

    class Clipped(Network):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            found.append({name for name, p in self.named_parameters() if p.grad is not None and p.grad.any()})

    torch.save({name: value + 1 for name, value in module.state_dict().items()}, tmp_path / "far.pt")
    pair = [TrainOnly(["head"]), L2SP(1.0, "*", anchor=str(tmp_path / "far.pt"))]
    trainer(callbacks=pair if first else pair[::-1]).fit(Clipped(), batches())
    assert found == [{"head.1.weight", "head.1.bias"}] * 3


@pytest.mark.parametrize("first", [True, False])
def test_what_is_held_has_no_part_in_a_projection(first, trainer):
    old = [(x, (y + 1) % 3) for x, y in zip(*batches(5).dataset.tensors, strict=True)]
    names, products = ["head.1.weight", "head.1.bias"], []

    class Watched(Network):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            loss = cross_entropy(self.head(self.encoder(past[0])), past[1])
            of = [self.get_parameter(name) for name in names]
            reference = torch.autograd.grad(loss, of)
            products.append(sum((p.grad * g).sum() for p, g in zip(of, reference, strict=True)).item())

    torch.manual_seed(0)
    module, past = Watched(), next(iter(DataLoader(old, batch_size=12)))
    module.head[0].p, module.encoder[1].momentum = 0.0, 0.0
    trainer(max_epochs=20).fit(module, DataLoader(old, batch_size=12))
    products.clear()
    pair = [TrainOnly(["head"]), AGEM(old, batch_size=12)]
    run = trainer(callbacks=pair if first else pair[::-1], max_epochs=3)
    run.fit(module, batches())
    assert run.callback_metrics["train/agem"] > 0
    assert min(products) > -1e-6


class Mapped(Network):
    """Batches that are mappings."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch["x"], batch["y"]), batch_idx)


ORIGINS = [torch.zeros(3), (0.0, 1.0, 2.0), 1.5, "siteA"]
WITH_ORIGINS = [
    AGEM,
    EWC,
    lambda: Distillation(teacher="start"),
    lambda: DarkExperienceReplay(teacher="start"),
]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("make", WITH_ORIGINS)
def test_the_origin_of_an_image_in_mm_is_no_origin_of_a_sample(make, origin, trainer):
    x, y = batches().dataset.tensors
    samples = [{"x": x[k], "y": y[k], "origin": origin} for k in range(len(x))]
    without = [{"x": x[k], "y": y[k]} for k in range(len(x))]
    found = []
    for data in (samples, without):
        torch.manual_seed(0)
        module = Mapped()
        trainer(callbacks=make()).fit(module, DataLoader(data, batch_size=4))
        found.append(weights(module))
    assert_close(*found, rtol=0, atol=0)


class Given(Network):
    def training_step(self, *given):
        batch, batch_idx = given
        return super().training_step(batch, batch_idx)


class Options(Network):
    def training_step(self, batch, **options):
        return super().training_step(batch, 0)


@pytest.mark.parametrize("kind", [Given, Options])
@pytest.mark.parametrize("make", [EWC, MAS, lambda: AGEM([(torch.zeros(4), 0)] * 4, batch_size=2)])
def test_a_step_is_asked_with_the_arguments_that_it_takes(kind, make, trainer):
    run = trainer(callbacks=make())
    run.fit(kind(), batches())
    assert run.global_step == 3


class InPlace(Network):
    def forward(self, x):
        return super().forward(x.sub_(1.0))


class Locked(Network):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Complex(Network):
    """A part in the frequency domain."""

    def __init__(self):
        super().__init__()
        self.spectrum = torch.nn.Parameter(torch.ones(3, dtype=torch.cfloat))

    def forward(self, x):
        return super().forward(torch.fft.irfft(torch.fft.rfft(x) * self.spectrum, 4))


REFUSED = {
    **{
        f"complex {make.__name__}": (
            Complex,
            make,
            r"defined for real weights, and `spectrum` is complex. (Name others|Take)",
        )
        for make in (AGEM, EWC, MAS, SI, RWalk)
    },
    "in place": (InPlace, lambda: Distillation(teacher="start"), r"`forward` of InPlace changes its input in place"),
    "teacher": (Locked, lambda: Distillation(teacher="start"), r"Locked cannot be copied .*lock"),
    "measured": (Locked, EWC, r"Locked cannot be copied .*lock"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked_is_named_before_a_step(case, trainer):
    kind, make, message = REFUSED[case]
    run = trainer(callbacks=make())
    with pytest.raises(MisconfigurationException, match=message):
        run.fit(kind(), batches())
    assert run.global_step == 0


class MakesTensors(Network):
    """New tensors of a forward have the type of the fit."""

    def __init__(self):
        super().__init__()
        self.example_input_array = torch.zeros(2, 4)

    def forward(self, x):
        return super().forward(x @ torch.ones(4, 4))


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("make", [EWC, MAS])
def test_a_network_that_makes_tensors_is_measured_in_the_precision_of_the_fit(make, precision, trainer):
    callback = make()
    trainer(callbacks=callback, precision=precision).fit(MakesTensors(), batches())
    assert callback.importance[FIRST].max() > 0


class Validates(Network):
    """Puts all of itself in training after a validation, as code from before Lightning 2.2 does."""

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_model_train(self):
        self.train()


@pytest.mark.parametrize(
    "make", [lambda: TrainOnly(["head"], hold_statistics=True), lambda: L2SP(1.0, hold_statistics=True)]
)
def test_statistics_are_held_behind_a_validation_too(make, trainer):
    modes = []

    class Modes(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            modes.append(pl_module.encoder[1].training)

    run = trainer(callbacks=[make(), Modes()], val_check_interval=1)
    run.fit(Validates(), batches(), batches())
    assert modes == [False] * 3


def test_what_others_call_settle_is_not_called(trainer):
    class Accounts(Callback):
        def settle(self, pl_module):
            raise AssertionError("somebody else's")

    trainer(callbacks=[Accounts(), WeightFusion(), L2SP(0.1, "*", anchor="last_fit")]).fit(network(), batches())
