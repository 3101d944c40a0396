import copy
import pickle
from functools import partial
from itertools import product

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset

from lit_continual.callbacks import Distillation, MetaTune
from lit_continual.data import Episodes
from lit_continual.modules import ANIL, FOMAML, MAML, Naive, Reptile, Segmenter
from tests.marks import slow_but

pytestmark = pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
REPLACED = {"training_step", "validation_step", "test_step", "configure_optimizers", "log"}
STRATEGIES = {
    "maml": partial(MAML, 0.3, 2),
    "fomaml": partial(FOMAML, 0.3, 2),
    "anil": partial(ANIL, ["head"], 0.3, 2),
    "reptile": partial(Reptile, 0.3, 2),
}


SGD = partial(torch.optim.SGD, lr=0.1)
MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.1)
OPTIMIZERS = {"sgd": MOMENTUM, "adam": ADAM}


class TinySegmenter(LightningModule):
    def __init__(self, optimizer=SGD, norm=True):
        super().__init__()
        # A bias before a batch norm has no gradient but rounding, which Adam would blow up to full steps.
        layers = [nn.Conv2d(1, 4, 3, padding=1, bias=not norm), nn.BatchNorm2d(4) if norm else nn.Tanh(), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(4, 1, 1)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.idle = nn.Parameter(torch.ones(1))
        self.optimizer = optimizer
        self.steps = 0

    def training_step(self, batch):  # no `batch_idx`: Lightning allows it
        self.steps += 1
        loss = binary_cross_entropy_with_logits(self.head(self.body(batch[0])) * self.frozen, batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        loss = binary_cross_entropy_with_logits(self.head(self.body(batch[0])), batch[1])
        self.log("val/loss", loss)

    def on_train_epoch_end(self):
        self.log("train/steps", float(self.steps), sync_dist=True)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


def make_batch(generator):
    return torch.randn(2, 1, 8, 8, generator=generator), torch.rand(2, 1, 8, 8, generator=generator).round()


def make_patients(patients=3, tasks=2):
    generator = torch.Generator().manual_seed(1)
    return [[(make_batch(generator), make_batch(generator)) for _ in range(tasks)] for _ in range(patients)]


def load(patients):
    return DataLoader(patients, batch_size=None)


def make_module(**options):
    seed_everything(0)
    return TinySegmenter(**options)


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.fixture
def trainer(trainer):
    return partial(trainer, max_epochs=2)


def task_loss(net, fast, batch):
    """The loss of the module, written once more, with batch norm that only normalises."""
    logits = functional_call(net, {**fast, **{n: b.clone() for n, b in net.named_buffers()}}, (batch[0],))
    return binary_cross_entropy_with_logits(logits, batch[1])


def gradient_by_hand(name, module, tasks):
    """The meta-gradient with one graph for all tasks and plain autograd, as a textbook writes it."""
    net = nn.Sequential()
    net.body, net.head = module.body, module.head
    theta = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
    total, sums = 0.0, dict.fromkeys(theta, 0.0)
    for inner, outer in tasks:
        fast = dict(theta)
        for _ in range(2):
            loss = task_loss(net, fast, inner)
            moved = [n for n in fast if name != "anil" or n.startswith("head")]
            grads = torch.autograd.grad(loss, [fast[n] for n in moved], create_graph=name in ("maml", "anil"))
            for n, g in zip(moved, grads, strict=True):
                fast[n] = fast[n] - 0.3 * g
        loss = task_loss(net, fast, outer)
        total = total + loss
        if name == "reptile":
            grads = torch.autograd.grad(loss, [*fast.values()])
            last = {n: (p - 0.3 * g).detach() for (n, p), g in zip(fast.items(), grads, strict=True)}
            sums = {n: sums[n] + (theta[n].detach() - p) / 0.3 for n, p in last.items()}
    if name == "reptile":
        return sums
    return dict(zip(theta, torch.autograd.grad(total, [*theta.values()]), strict=True))


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    ("reduction", "optimizer"), slow_but(product(["sum", "mean"], OPTIMIZERS), ("sum", "sgd"), ("mean", "adam"))
)
def test_fit_equals_the_loop_written_by_hand(trainer, name, optimizer, reduction):
    patients, module = make_patients(), make_module(optimizer=OPTIMIZERS[optimizer])
    by_hand = copy.deepcopy(module)
    stepper = by_hand.configure_optimizers()
    for tasks in patients * 2:
        share = len(tasks) if reduction == "mean" else 1
        for n, g in gradient_by_hand(name, by_hand, tasks).items():
            by_hand.get_parameter(n).grad = g / share
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.05)
        stepper.step()

    tuning = MetaTune(STRATEGIES[name](), reduction)
    trainer(callbacks=tuning, gradient_clip_val=0.05).fit(module, load(patients))
    assert_close(parameters(module), parameters(by_hand), rtol=1e-4, atol=1e-6)


def test_strategies_differ(trainer):
    results = []
    for name in STRATEGIES:
        module = make_module()
        trainer(callbacks=MetaTune(STRATEGIES[name]())).fit(module, load(make_patients()))
        results.append(module.head.weight.detach())
    distances = torch.cdist(torch.stack(results).flatten(1), torch.stack(results).flatten(1))
    assert (distances + torch.eye(4) > 1e-5).all()


def test_accumulated_patients_equal_the_mean_over_patients(trainer):
    patients, module = make_patients(2), make_module()
    expected = copy.deepcopy(module)
    tuning = [MetaTune(MAML(0.3), "mean"), MetaTune(MAML(0.3), "mean")]
    trainer(callbacks=tuning[0], max_epochs=1, accumulate_grad_batches=2).fit(module, load(patients))
    trainer(callbacks=tuning[1], max_epochs=1).fit(expected, load([patients[0] + patients[1]]))
    assert_close(parameters(module), parameters(expected), rtol=0, atol=1e-6)


def test_inner_passes_move_no_buffer_and_no_grad(trainer):
    module = make_module()
    before, seen = copy.deepcopy(module.state_dict()), []

    class InnerOnly(MAML):
        def task_gradient(self, loss, parameters, task, *rest):
            result = super().task_gradient(loss, parameters, (task[0], task[0]), *rest)
            seen.append(copy.deepcopy(module.state_dict()))
            assert all(p.grad is None for p in module.parameters())
            return result

    trainer(callbacks=MetaTune(InnerOnly(0.3, 5)), max_epochs=1).fit(module, load([make_patients(1)[0][:1]]))
    assert_close(dict(seen[0]), dict(before), rtol=0, atol=0)


def test_the_outer_pass_moves_running_statistics_once_per_task(trainer):
    module = make_module()
    trainer(callbacks=MetaTune(MAML(0.3, 3)), max_epochs=1).fit(module, load(make_patients(1, 4)))
    assert module.body[1].num_batches_tracked == 4
    assert module.steps == 4 * 4


def test_a_parameter_without_influence_stays_without_gradient(trainer):
    module = make_module()
    trainer(callbacks=MetaTune(MAML(0.3)), max_epochs=1).fit(module, load(make_patients(1)))
    assert module.idle.grad is None
    assert module.frozen.grad is None
    assert module.head.weight.grad is not None


def test_logs_of_the_module_and_the_outer_loss_arrive(trainer):
    fitted, module = trainer(callbacks=MetaTune(MAML(0.3)), max_epochs=1), make_module()
    fitted.fit(module, load(make_patients(1)), load(make_patients(1)[0][0]))
    assert fitted.callback_metrics["train/outer_loss"] == pytest.approx(2 * fitted.callback_metrics["train/loss"])
    assert fitted.callback_metrics["train/steps"] == 4
    assert fitted.callback_metrics["val/loss"] > 0
    assert not vars(module).keys() & REPLACED


@pytest.mark.parametrize("strategy", [MAML(0.3), FOMAML(0.3), ANIL(["head"], 0.3)], ids=["maml", "fomaml", "anil"])
def test_learned_rates_descend_the_outer_loss(trainer, strategy):
    module, patients = make_module(norm=False), make_patients(1)
    tuning = MetaTune(strategy, learn_inner_lr=True)
    by_hand = copy.deepcopy(module)
    trainer(callbacks=tuning, max_epochs=1).fit(module, load(patients))

    def outer_loss(rates):
        value = 0.0
        for inner, outer in patients[0]:
            theta = {n: p.detach().requires_grad_() for n, p in by_hand.named_parameters() if n[:4] in ("body", "head")}
            net = nn.Sequential()
            net.body, net.head = by_hand.body, by_hand.head
            moved = [n for n in theta if n.rpartition(".")[0] in rates]
            grads = torch.autograd.grad(task_loss(net, theta, inner), [theta[n] for n in moved])
            for n, g in zip(moved, grads, strict=True):
                theta[n] = theta[n].detach() - rates[n.rpartition(".")[0]] * g
            value += task_loss(net, theta, outer).item()
        return value

    layers = tuning.inner_rates.layers
    for index, layer in enumerate(layers):
        if layer == "":
            continue  # the parameters of the module itself, which no loss reaches
        up, down = (outer_loss({**dict.fromkeys(layers, 0.3), layer: 0.3 + step}) for step in (0.05, -0.05))
        assert tuning.inner_rates.value[index].item() == pytest.approx(0.3 - 0.1 * (up - down) / 0.1, abs=2e-4)


PRECISIONS = {
    "bf16": lambda: {"precision": "bf16-mixed"},
    "fp16": lambda: {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**12))},
    "64": lambda: {"precision": "64-true"},
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_precisions_agree_with_float32(trainer, precision, name):
    start = make_module()
    moves = []
    for options in ({}, PRECISIONS[precision]()):
        tuned = copy.deepcopy(start)
        trainer(callbacks=MetaTune(STRATEGIES[name]()), max_epochs=1, **options).fit(tuned, load(make_patients()))
        assert all(p.isfinite().all() for p in tuned.parameters())
        pairs = zip(tuned.parameters(), start.parameters(), strict=True)
        moves.append(torch.cat([(p.detach().double() - s.detach()).flatten() for p, s in pairs]))
    assert (moves[0] - moves[1]).norm() < {"bf16": 5e-2, "fp16": 5e-3, "64": 1e-4}[precision] * moves[0].norm()


def test_an_overflow_skips_the_step_and_lowers_the_scale(trainer):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    module = make_module()
    before = parameters(module)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer(callbacks=MetaTune(MAML(0.3)), max_epochs=1, plugins=plugin).fit(module, load(make_patients(1)))
    assert scaler.get_scale() == 2.0**39
    assert_close(parameters(module), before, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
@pytest.mark.parametrize("learn", [False, True])
def test_resumed_in_mid_epoch_equals_the_fit_that_was_not_stopped(trainer, tmp_path, learn):
    class Patients(DataLoader):
        """Goes on where it was, as a loader must that Lightning can resume."""

        at = 0

        def __iter__(self):
            while self.at < len(self.dataset):
                self.at += 1
                yield self.dataset[self.at - 1]
            self.at = 0

        def state_dict(self):
            return {"at": self.at}

        def load_state_dict(self, state):
            self.at = state["at"]

    def fit(module, **options):
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        tuning = MetaTune(MAML(0.3), learn_inner_lr=learn)
        loader = Patients(make_patients(), batch_size=None)
        trainer(callbacks=[tuning, saver], enable_checkpointing=True, max_epochs=2).fit(module, loader, **options)
        rates = {"inner rates": tuning.inner_rates.value.detach()} if learn else {}
        return {**parameters(module), **rates}

    adam = partial(torch.optim.Adam, lr=0.05)
    whole = fit(make_module(optimizer=adam))
    resumed = fit(make_module(optimizer=adam), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert_close(resumed, whole, rtol=0, atol=0)


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("name", STRATEGIES)
def test_evaluation_adapts_and_leaves_the_module_alone(trainer, inference_mode, name):
    module, tasks = make_module(), make_patients(1, 3)[0]
    tuning = MetaTune(STRATEGIES[name](), learn_inner_lr=name != "reptile", adapt_in_evaluation=True)
    before = copy.deepcopy(module.state_dict())
    evaluator = trainer(callbacks=tuning, inference_mode=inference_mode)
    evaluator.validate(module, load([tasks]), verbose=False)

    net = nn.Sequential()
    net.body, net.head = module.body, module.head
    net.eval()
    losses = []
    for inner, outer in tasks:
        fast = {n: p.detach().requires_grad_() for n, p in net.named_parameters()}
        for _ in range(2):
            grads = torch.autograd.grad(task_loss(net, fast, inner), [*fast.values()])
            for (n, p), g in zip(list(fast.items()), grads, strict=True):
                rate = 0.3 if name != "anil" or n.startswith("head") else 0.0
                fast[n] = (p - rate * g).detach().requires_grad_()
        losses.append(task_loss(net, fast, outer).item())
    assert evaluator.callback_metrics["val/loss"].item() == pytest.approx(sum(losses) / 3, abs=1e-5)
    assert_close(dict(module.state_dict()), dict(before), rtol=0, atol=0)
    assert all(p.grad is None for p in module.parameters())
    assert not vars(module).keys() & REPLACED


@pytest.mark.slow
def test_memory_stays_flat_over_200_evaluations(trainer):
    import gc

    tuning, counts = MetaTune(MAML(0.3), adapt_in_evaluation=True), []

    class Counted(DataLoader):
        def __iter__(self):
            for index in range(200):
                if index in (20, 199):
                    gc.collect()
                    counts.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
                yield self.dataset[0]

        def __len__(self):
            return 200

    trainer(callbacks=tuning).validate(make_module(), Counted(make_patients(1), batch_size=None), verbose=False)
    assert counts[0] == counts[1]


class Manual(TinySegmenter):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Lossless(TinySegmenter):
    def training_step(self, batch, batch_idx):
        return None


def test_refuses_what_cannot_be_right(trainer):
    def refused(match, module, *beside, **options):
        callbacks = [MetaTune(MAML(), **options), *beside]
        with pytest.raises(MisconfigurationException, match=match):
            trainer(callbacks=callbacks).fit(module, load(make_patients()))
        assert not vars(module).keys() & REPLACED

    refused("`Manual` steps its optimizers itself", Manual())
    refused(r"`Lossless.training_step` returned NoneType without a loss", Lossless())
    scheduled = make_module(optimizer=lambda p: ([torch.optim.SGD(p, 0.1)], []))
    refused("returned tuple: return one optimizer", scheduled, learn_inner_lr=True)
    refused(r"`Distillation` adds to the loss of one batch.*use one of the two", make_module(), Distillation(), after=1)
    refused("and this fit has none: pass", make_module(), episodes=Episodes())
    with pytest.raises(MisconfigurationException, match="which Reptile does not have"):
        MetaTune(Reptile(), learn_inner_lr=True)
    compiled = torch.compile(make_module(), backend="eager")
    with pytest.raises(MisconfigurationException, match=r"give the Trainer the module itself, without `torch.compile`"):
        trainer(callbacks=MetaTune(MAML())).fit(compiled, load(make_patients()))


def test_refuses_strategies_that_shard(trainer):
    class FSDPStrategy(SingleDeviceStrategy):
        """As Lightning's, which takes a GPU, is called."""

    strategy = FSDPStrategy(torch.device("cpu"))
    with pytest.raises(MisconfigurationException, match="which FSDPStrategy shards: use `strategy='ddp'`"):
        trainer(callbacks=MetaTune(MAML()), strategy=strategy).fit(make_module(), load(make_patients()))


def test_names_a_bad_argument(trainer):
    with pytest.raises(ValueError, match="`parts` names 'tail', which selects no trainable parameter"):
        trainer(callbacks=MetaTune(ANIL(["tail"]))).fit(make_module(), load(make_patients()))
    with pytest.raises(ValueError, match="`parts` must be a list with at least one name, got 'head'"):
        ANIL("head")
    with pytest.raises(ValueError, match="`reduction` must be 'sum' or 'mean', got 'max'"):
        MetaTune(MAML(), "max")
    with pytest.raises(ValueError, match="`after` must not be negative, got -1"):
        MetaTune(MAML(), after=-1)
    with pytest.raises(ValueError, match="`inner_steps` must be at least 1, got 0"):
        MAML(0.1, 0)


def test_names_the_task_whose_loss_is_nan(trainer):
    patients, module = make_patients(), make_module()
    patients[1][1][0][0].fill_(torch.nan)
    with pytest.raises(ValueError, match=r"Task 2 of 2 in batch 1: The inner loss at step 1 of 1 is nan"):
        trainer(callbacks=MetaTune(MAML(0.3), learn_inner_lr=True)).fit(module, load(patients))
    assert not vars(module).keys() & REPLACED
    assert dict(module.named_parameters()).keys() == dict(make_module().named_parameters()).keys()


@pytest.mark.parametrize("batch", [[], [torch.ones(2)], torch.ones(2, 1, 8, 8), [[1, 2, 3]]])
def test_names_a_batch_that_is_not_made_of_pairs(trainer, batch):
    with pytest.raises(ValueError, match="takes a list of pairs"):
        trainer(callbacks=MetaTune(MAML())).fit(make_module(), DataLoader([batch], batch_size=None))


class Dealt(IterableDataset):
    """Patients dealt to the processes in turn; Lightning's own sampler would shuffle them."""

    def __init__(self, patients):
        self.patients = patients

    def __iter__(self):
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return iter(self.patients[rank::world])


class RatesKept(Callback):
    """Forked processes bring the weights of the module back to the one that called them, and nothing else."""

    def __init__(self, tuning, path):
        self.tuning, self.path = tuning, path

    def on_fit_end(self, trainer, pl_module):
        if trainer.is_global_zero and self.tuning.inner_rates is not None:
            torch.save(self.tuning.inner_rates.value.detach(), self.path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
@pytest.mark.parametrize(
    ("reduction", "options"),
    [("sum", {}), ("sum", {"gradient_clip_val": 0.05}), ("mean", {"accumulate_grad_batches": 2})],
    ids=["plain", "clipped", "accumulated"],
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_equal_one_with_the_same_tasks(trainer, tmp_path, name, reduction, options):
    patients, module = make_patients(8), make_module(optimizer=MOMENTUM)
    one, learn = copy.deepcopy(module), name != "reptile"
    parallel = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 1}
    tuning = MetaTune(STRATEGIES[name](), reduction, learn_inner_lr=learn)
    callbacks = [tuning, RatesKept(tuning, tmp_path / "rates")]
    trainer(callbacks=callbacks, **parallel, **options).fit(module, load(Dealt(patients)))
    tuning = MetaTune(STRATEGIES[name](), reduction, learn_inner_lr=learn)
    options["accumulate_grad_batches"] = 2 * options.get("accumulate_grad_batches", 1)
    trainer(callbacks=tuning, max_epochs=1, **options).fit(one, load(patients))
    assert_close(parameters(module), parameters(one), rtol=0, atol=1e-6)
    if learn:
        assert_close(torch.load(tmp_path / "rates"), tuning.inner_rates.value.detach(), rtol=0, atol=1e-6)


def test_a_module_that_grows_is_resumed_with_its_heads_and_rates(trainer, tmp_path):
    class Growing(TinySegmenter):
        def __init__(self):
            super().__init__(norm=False)
            self.save_hyperparameters({"grown": False})

        def setup(self, stage):
            self.grow()

        def grow(self):
            if not self.hparams["grown"]:
                self.head = nn.Sequential(self.head, nn.Conv2d(1, 1, 1))
                self.hparams["grown"] = True

        def on_load_checkpoint(self, checkpoint):
            assert "head.0.weight" in checkpoint["state_dict"]
            if checkpoint["hyper_parameters"]["grown"]:
                self.grow()

    def fit(epochs, **options):
        seed_everything(0)
        module, tuning = Growing(), MetaTune(MAML(0.3), learn_inner_lr=True)
        fitted = trainer(callbacks=tuning, max_epochs=epochs)
        fitted.fit(module, load(make_patients()), **options)
        fitted.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module, tuning.inner_rates

    (whole, rates), _ = fit(2), fit(1)
    resumed, resumed_rates = fit(2, ckpt_path=tmp_path / "1.ckpt", weights_only=True)
    assert "head.1" in resumed_rates.layers
    assert_close(parameters(resumed), parameters(whole), rtol=0, atol=0)
    assert_close(resumed_rates.value, rates.value, rtol=0, atol=0)
    loaded = Growing.load_from_checkpoint(tmp_path / "2.ckpt", weights_only=True)
    assert_close(parameters(loaded), parameters(whole), rtol=0, atol=0)


def test_meta_tunes_the_segmenter_of_the_project(trainer, tmp_path):
    def batch(seed):
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(2, 1, 16, 16, generator=generator)
        return {"image": image, "label": (image > 1).long(), "classes": ["lesion", "lesion"], "patient": ["a", "a"]}

    seed_everything(0)
    network = {"_target_": "BasicUNet", "spatial_dims": 2, "features": [4] * 6, "norm": "BATCH"}
    segmenter = Segmenter(network, features=4, heads=[["lesion"]], roi_size=[16, 16])
    before = parameters(segmenter)
    fitted = trainer(callbacks=MetaTune(ANIL(["heads"], 0.1)), max_epochs=1)
    fitted.fit(segmenter, load([[(batch(0), batch(1)), (batch(2), batch(3))]]))
    assert fitted.callback_metrics["train/loss"] > 0
    assert any((p != before[n]).any() for n, p in segmenter.named_parameters() if n.startswith("body"))
    fitted.save_checkpoint(tmp_path / "tuned.ckpt")
    again = Segmenter.load_from_checkpoint(tmp_path / "tuned.ckpt", weights_only=True)
    assert again.classes == ["lesion"]
    assert_close(parameters(again), parameters(segmenter), rtol=0, atol=0)


def test_naive_is_a_step_on_the_slices_of_both_batches(trainer):
    patients, module = make_patients(1), make_module(norm=False)
    by_hand = copy.deepcopy(module)
    net = nn.Sequential()
    net.body, net.head = by_hand.body, by_hand.head
    loss = sum(task_loss(net, {}, batch) / 2 for pair in patients[0] for batch in pair)
    stepper = by_hand.configure_optimizers()
    loss.backward()
    stepper.step()
    trainer(callbacks=MetaTune(Naive()), max_epochs=1).fit(module, load(patients))
    assert_close(parameters(module), parameters(by_hand), rtol=1e-5, atol=1e-7)
    assert module.steps == 4  # gradient evaluations, as many as those of one inner step


def test_the_fits_before_are_those_of_the_module_alone(trainer, tmp_path):
    batches, module = [batch for pair in make_patients(1)[0] for batch in pair], make_module(optimizer=ADAM)
    alone, tuning = copy.deepcopy(module), MetaTune(MAML(0.3), learn_inner_lr=True, after=1)
    trainer().fit(alone, load(batches))
    waiting = trainer(callbacks=tuning)
    waiting.fit(module, load(batches))
    assert_close(dict(module.state_dict()), dict(alone.state_dict()), rtol=0, atol=0)
    waiting.save_checkpoint(tmp_path / "waited.ckpt")
    trainer(callbacks=MetaTune(MAML(0.3))).fit(alone, load(make_patients()))
    fresh = MetaTune(MAML(0.3), after=1)
    state = torch.load(tmp_path / "waited.ckpt", weights_only=True)["callbacks"]
    fresh.load_state_dict(state[fresh.state_key])
    trainer(callbacks=fresh).fit(module, load(make_patients()))
    assert_close(dict(module.state_dict()), dict(alone.state_dict()), rtol=0, atol=0)


def test_a_checkpoint_is_one_of_the_module(trainer, tmp_path):
    module, tuning = make_module(), MetaTune(MAML(0.3), learn_inner_lr=True)
    fitted = trainer(callbacks=tuning)
    fitted.fit(module, load(make_patients()))
    fitted.save_checkpoint(tmp_path / "tuned.ckpt")
    assert (
        torch.load(tmp_path / "tuned.ckpt", weights_only=True)["state_dict"].keys() == make_module().state_dict().keys()
    )
    alone = TinySegmenter.load_from_checkpoint(tmp_path / "tuned.ckpt", weights_only=True)
    assert_close(dict(alone.state_dict()), dict(module.state_dict()), rtol=0, atol=0)


def test_rates_go_on_from_fit_to_fit_in_a_group_without_decay(trainer):
    class Groups(Callback):
        def on_train_start(self, trainer, pl_module):
            self.seen = trainer.optimizers[0].param_groups[1:]

    module = make_module(optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5))
    tuning, groups = MetaTune(MAML(0.3), learn_inner_lr=True), Groups()
    trainer(callbacks=[tuning, groups]).fit(module, load(make_patients()))
    first = tuning.state_dict()
    assert first["inner_rates"]["value"].unique().numel() > 1
    assert [group["weight_decay"] for group in groups.seen] == [0]
    trainer(callbacks=[tuning, groups], max_epochs=0).fit(module, load(make_patients()))
    assert torch.equal(tuning.inner_rates.value, first["inner_rates"]["value"])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
def test_an_evaluation_adapts_by_the_rates_of_its_checkpoint_and_gives_its_own_back(trainer, tmp_path):
    module, tuning = make_module(), MetaTune(MAML(0.3), learn_inner_lr=True, adapt_in_evaluation=True, after=1)
    trainer(callbacks=tuning).fit(module, load([make_batch(torch.Generator().manual_seed(2))]))
    fitted = trainer(callbacks=tuning)
    fitted.fit(module, load(make_patients()))
    fitted.save_checkpoint(tmp_path / "tuned.ckpt")
    (expected,) = trainer(callbacks=tuning).validate(module, load(make_patients()), verbose=False)
    fresh = MetaTune(MAML(0.3), learn_inner_lr=True, adapt_in_evaluation=True, after=1)
    evaluated = trainer(callbacks=fresh)
    (found,) = evaluated.validate(make_module(), load(make_patients()), tmp_path / "tuned.ckpt", verbose=False)
    assert found == expected
    assert (fresh.state_dict()["fits"], fresh.inner_rates.layers) == (0, [])


def test_copies_and_pickles_made_during_a_fit_are_plain_modules(trainer):
    class Copies(Callback):
        def on_train_start(self, trainer, pl_module):
            self.made = [copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))]

    copies, module = Copies(), make_module()
    tuning = MetaTune(MAML(0.3), learn_inner_lr=True, adapt_in_evaluation=True)
    trainer(callbacks=[tuning, copies, EMAWeightAveraging()]).fit(module, load(make_patients()))
    for made in copies.made:
        assert made.training_step.__func__ is TinySegmenter.training_step
        assert made.training_step.__self__ is made
        trainer(max_epochs=1).fit(made, load(make_patients(1)[0][0]))
    assert not vars(module).keys() & REPLACED


class TwoNames(TinySegmenter):
    """Modules under two names, as MONAI's DynUNet and many encoders have them, and one weight in two modules."""

    def __init__(self):
        super().__init__()
        self.tied = nn.Conv2d(1, 1, 1)
        self.tied.weight = self.scale = nn.Parameter(torch.ones(1, 1, 1, 1))
        self.backbone, self.norm = self.body, self.body[1]

    def training_step(self, batch):
        logits = self.head(self.backbone(self.tied(batch[0]) * self.scale))
        loss = binary_cross_entropy_with_logits(logits, batch[1])
        return {"loss": loss}


def test_a_submodule_with_two_names_is_trained_as_one(trainer):
    seed_everything(0)
    module, batches = TwoNames(), make_patients(2)
    names = {name: type(p) for name, p in module.named_parameters(remove_duplicate=False)}
    by_hand = copy.deepcopy(module)
    stepper = by_hand.configure_optimizers()
    for tasks in batches:
        # What `Reptile` with a zero rate asks for: the sum of the gradients at the same weights.
        stepper.zero_grad()
        for batch in (batch for task in tasks for batch in task):
            by_hand.training_step(batch)["loss"].backward()
        stepper.step()
    trainer(callbacks=MetaTune(Reptile(0.0)), max_epochs=1).fit(module, load(batches))
    assert {name: type(p) for name, p in module.named_parameters(remove_duplicate=False)} == names
    assert module.backbone[0].weight is module.body[0].weight
    assert module.tied.weight is module.scale
    assert_close(parameters(module), parameters(by_hand), rtol=1e-4, atol=1e-6)


def test_a_module_of_the_other_package_is_tuned_alike(trainer):
    def fit(package):
        class Module(package.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = make_module()

            def training_step(self, batch, batch_idx):
                return binary_cross_entropy_with_logits(self.net.head(self.net.body(batch[0])), batch[1])

            def configure_optimizers(self):
                return ADAM(self.parameters())

        module, tuning = Module(), MetaTune(MAML(0.3), learn_inner_lr=True)
        package.Trainer(callbacks=[tuning], **trainer.keywords).fit(module, load(make_patients()))
        assert not vars(module).keys() & REPLACED
        return {**parameters(module), "inner rates": tuning.inner_rates.value}

    assert_close(fit(pytorch_lightning), fit(lightning.pytorch), rtol=0, atol=0)
