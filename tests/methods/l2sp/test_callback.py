import copy
from functools import partial

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn.functional import mse_loss
from torch.testing import assert_close

from lit_continual.callbacks import L2SP

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}
PRECISIONS = {
    "32": lambda: {"precision": "32-true"},
    "bf16": lambda: {"precision": "bf16-mixed"},
    "fp16": lambda: {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))},
}
decays = pytest.mark.filterwarnings("ignore:The optimizer's weight decay")


class Segments(LightningModule):
    """An encoder with batch normalisation, a decoder, and a parameter that the loss never meets."""

    def __init__(self, optimizer=OPTIMIZERS["sgd"], extra=None):
        super().__init__()
        first = nn.Linear(4, 3, bias=False)  # a bias before the normalisation would get rounding errors for gradients
        self.net = nn.ModuleDict({"encoder": nn.Sequential(first, nn.BatchNorm1d(3), nn.Tanh())})
        self.net["decoder"] = nn.Linear(3, 2)
        self.net["encoder"].unused = nn.Parameter(torch.ones(2))
        self.optimizer, self.extra = optimizer, extra

    def forward(self, x):
        return self.net["decoder"](self.net["encoder"](x))

    def training_step(self, batch):  # No `batch_idx`: Lightning allows it.
        loss = mse_loss(self(batch[0]), batch[1])
        return loss if self.extra is None else loss + self.extra(self)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


@pytest.fixture
def module():
    seed_everything(0)
    return Segments()


@pytest.fixture
def source(tmp_path, module):
    """A checkpoint of other weights, and these weights under the module's names."""
    seed_everything(1)
    anchor = {name: torch.randn_like(p) for name, p in module.net.named_parameters()}
    torch.save({"state_dict": anchor}, tmp_path / "source.ckpt")
    return str(tmp_path / "source.ckpt"), {f"net.{name}": t for name, t in anchor.items() if "encoder" in name}


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def by_hand(anchor, strength):
    return lambda m: strength * sum((p - anchor[n]).square().sum() for n, p in m.named_parameters() if n in anchor)


@decays
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, 0.5)])
def test_explicit_equals_the_term_written_by_hand(
    module, loader, trainer, source, optimizer, precision, accumulate, clip
):
    path, anchor = source
    module.optimizer = OPTIMIZERS[optimizer]
    reference = copy.deepcopy(module)
    reference.extra = by_hand(anchor, 0.7)
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    trainer(**options, **PRECISIONS[precision]()).fit(reference, loader)
    trainer(callbacks=L2SP(0.7, anchor=path), **options, **PRECISIONS[precision]()).fit(module, loader)
    assert_close(parameters(module), parameters(reference), rtol=1e-5, atol=2e-6)


class ProximalByHand(Segments):
    """Moves towards the anchor after every optimizer step, as eq. 3's prior under a decoupled step asks."""

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name in self.anchor:
                    lr = self.trainer.optimizers[0].param_groups[0]["lr"]
                    shrink = 1 / (1 + 2 * lr * self.strength)
                    p.lerp_(self.anchor[name], 1 - shrink)  # rounded as ours is: Adam blows up the last bit


@decays
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, 0.5)])
def test_proximal_equals_the_step_written_by_hand(
    module, loader, trainer, source, optimizer, precision, accumulate, clip
):
    path, anchor = source
    reference = ProximalByHand(OPTIMIZERS[optimizer])
    reference.load_state_dict(module.state_dict())
    reference.anchor, reference.strength, module.optimizer = anchor, 3.0, OPTIMIZERS[optimizer]
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    trainer(**options, **PRECISIONS[precision]()).fit(reference, loader)
    callback = L2SP(3.0, anchor=path, step="proximal")
    trainer(callbacks=callback, **options, **PRECISIONS[precision]()).fit(module, loader)
    assert_close(parameters(module), parameters(reference), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_huge_proximal_strength_is_a_frozen_encoder(module, loader, trainer, optimizer):
    module.optimizer = OPTIMIZERS[optimizer]
    frozen = copy.deepcopy(module)
    frozen.net["encoder"].requires_grad_(False)
    trainer(max_epochs=2).fit(frozen, loader)
    trainer(max_epochs=2, callbacks=L2SP(1e6, step="proximal")).fit(module, loader)
    assert_close(dict(module.state_dict()), dict(frozen.state_dict()), rtol=1e-5, atol=1e-6)


def test_proximal_is_stable_where_explicit_diverges(module, loader, trainer, source):
    moved = copy.deepcopy(module)
    with pytest.warns(UserWarning, match=r"diverges under plain SGD .* 0\.1 times 50.*`step='proximal'`"):
        trainer(max_epochs=4, callbacks=L2SP(50.0, anchor=source[0])).fit(moved, loader)
    trainer(max_epochs=4, callbacks=L2SP(50.0, anchor=source[0], step="proximal")).fit(module, loader)
    assert not torch.isfinite(moved.net["encoder"][0].weight).all() or moved.net["encoder"][0].weight.abs().max() > 1e6
    assert_close({n: p for n, p in parameters(module).items() if n in source[1]}, source[1], rtol=0, atol=0.1)


def test_schedule_over_epochs(module, loader, trainer, source):
    path, anchor = source
    reference = copy.deepcopy(module)
    reference.extra = lambda m: by_hand(anchor, [0.7, 0.7, 0.0, 0.2][m.current_epoch])(m)
    trainer(max_epochs=4).fit(reference, loader)
    trainer(max_epochs=4, callbacks=L2SP({0: 0.7, 2: 0.0, 3: 0.2}, anchor=path)).fit(module, loader)
    assert_close(parameters(module), parameters(reference), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", ["explicit", "proximal"])
def test_the_rest_is_pulled_to_zero(module, loader, trainer, source, step):
    path, anchor = source
    zeros = {name: torch.zeros_like(p) for name, p in module.named_parameters() if "decoder" in name}
    if step == "explicit":
        reference = copy.deepcopy(module)
        reference.extra = lambda m: by_hand(anchor, 0.5)(m) + by_hand(zeros, 0.3)(m)
        trainer().fit(reference, loader)
    else:
        reference = ProximalByHand()
        reference.load_state_dict(module.state_dict())
        reference.anchor, reference.strength = zeros, 0.3
        trainer(callbacks=L2SP(0.5, anchor=path, step=step)).fit(reference, loader)
    trainer(callbacks=L2SP(0.5, anchor=path, decoder_strength=0.3, step=step)).fit(module, loader)
    assert_close(parameters(module), parameters(reference), rtol=1e-5, atol=1e-6)


class AnchorsInFit(Callback):
    """What the state of an L2SP holds at the end of training."""

    def __init__(self, of):
        self.of, self.anchor = of, {}

    def on_train_end(self, trainer, pl_module):
        self.anchor = dict(self.of.state_dict()["anchor"])


def test_anchor_of_the_start_is_a_copy(module, loader, trainer):
    start = parameters(module)
    reference = copy.deepcopy(module)
    reference.extra = by_hand({n: t for n, t in start.items() if "encoder" in n}, 2.0)
    trainer(max_epochs=2).fit(reference, loader)
    callback = L2SP(2.0)
    trainer(max_epochs=2, callbacks=callback).fit(module, loader)
    assert_close(parameters(module), parameters(reference), rtol=1e-5, atol=1e-6)
    seen = AnchorsInFit(callback)
    trainer(max_epochs=2, callbacks=[callback, seen]).fit(module, loader)
    assert_close(seen.anchor, {n: t for n, t in parameters(reference).items() if "encoder" in n}, rtol=1e-5, atol=1e-6)


def test_anchor_of_the_last_fit(module, loader, trainer):
    callback, plain = L2SP(2.0, anchor="last_fit"), copy.deepcopy(module)
    trainer().fit(plain, loader)
    trainer(callbacks=callback).fit(module, loader)
    assert_close(parameters(module), parameters(plain), rtol=0, atol=0)

    reference = copy.deepcopy(module)
    reference.extra = by_hand({n: t for n, t in parameters(module).items() if "encoder" in n}, 2.0)
    reference.net["encoder"].grown = nn.Parameter(torch.ones(3))
    module.net["encoder"].grown = nn.Parameter(torch.ones(3))
    trainer().fit(reference, loader)
    fresh = L2SP(2.0, anchor="last_fit")
    fresh.load_state_dict(copy.deepcopy(callback.state_dict()))
    trainer(callbacks=fresh).fit(module, loader)
    assert_close(parameters(module), parameters(reference), rtol=1e-5, atol=1e-6)
    assert torch.equal(module.net["encoder"].grown, torch.ones(3))


def test_only_parameters_are_anchored(module, loader, trainer):
    callback = L2SP(1.0, parameters=["encoder.*.weight", "unused"])
    seen = AnchorsInFit(callback)
    trainer(callbacks=[callback, seen]).fit(module, loader)
    assert set(seen.anchor) == {"net.encoder.0.weight", "net.encoder.1.weight", "net.encoder.unused"}
    plain, held = copy.deepcopy(module), copy.deepcopy(module)
    trainer().fit(plain, loader)
    trainer(callbacks=L2SP(1e6, step="proximal")).fit(held, loader)
    before = module.net["encoder"][1].running_mean
    assert (held.net["encoder"][1].running_mean - before).abs().max() > 1e-3


class FrozenByHand(Segments):
    """Trains on the features of an encoder that is evaluated."""

    def forward(self, x):
        self.net["encoder"].eval()
        with torch.no_grad():
            features = self.net["encoder"](x)
        return self.net["decoder"](features)

    def validation_step(self, batch):
        self.log("val", mse_loss(self(batch[0]), batch[1]))


@pytest.mark.filterwarnings("ignore:Found 1 module")  # that its user froze
def test_with_held_statistics_an_encoder_answers_as_before_and_trains_as_it_answers(module, loader, trainer):
    trainer().fit(module, loader)  # gives it statistics
    images = next(iter(loader))[0]
    before, statistics = module.eval().net["encoder"](images), module.net["encoder"][1].running_mean.clone()
    held, frozen = FrozenByHand(), FrozenByHand()
    held.forward = partial(Segments.forward, held)
    for copied in (held, frozen):
        copied.load_state_dict(module.state_dict())
    options = {"max_epochs": 2, "val_check_interval": 1, "limit_val_batches": 1}
    trainer(**options).fit(frozen, loader, loader)
    trainer(**options, callbacks=L2SP(1e6, step="proximal", hold_statistics=True)).fit(held, loader, loader)
    assert torch.equal(held.net["encoder"][1].running_mean, statistics)
    assert held.net["encoder"][1].training
    assert_close(held.eval().net["encoder"](images), before, rtol=1e-5, atol=1e-6)
    assert_close(parameters(held), parameters(frozen), rtol=1e-5, atol=1e-6)
    held.train().net["encoder"][1].eval()  # frozen by its user, and so it stays
    options["callbacks"] = L2SP(1.0, hold_statistics=True)
    trainer(**options).fit(held, loader, loader)
    assert not held.net["encoder"][1].training
    held.train()
    fitting = trainer(callbacks=L2SP(1.0, parameters="decoder", hold_statistics=True), limit_val_batches=1)
    fitting.fit(held, loader, loader)
    assert not torch.equal(held.net["encoder"][1].running_mean, statistics)  # nothing of it is anchored


class Spy(Callback):
    """Keeps the parameters as they are before each optimizer step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(parameters(pl_module))


def test_logs_the_penalty_and_the_distances(module, loader, trainer, source):
    path, anchor = source
    spy = Spy()
    fitted = trainer(callbacks=[L2SP(0.7, anchor=path, log_layers=True), spy])
    fitted.fit(module, loader)
    penalty = 0.7 * sum((spy.seen[-1][name] - anchor[name]).square().sum() for name in anchor)
    distances = {name: (parameters(module)[name] - anchor[name]).square().sum() for name in anchor}
    batch_norm = distances["net.encoder.1.weight"] + distances["net.encoder.1.bias"]
    logs = fitted.callback_metrics
    assert_close(logs["train/l2sp"], penalty)
    assert_close(logs["train/l2sp_distance"], sum(distances.values()).sqrt())
    assert_close(logs["train/l2sp_distance/net.encoder.1"], batch_norm.sqrt())
    assert {key for key in logs if "/net." in key} == {
        f"train/l2sp_distance/net.encoder{layer}" for layer in ("", ".0", ".1")
    }


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_fit_does_not_need_the_anchor_file(module, loader, trainer, tmp_path, source):
    save = ModelCheckpoint(tmp_path / "saved", "{epoch}", save_top_k=-1)
    options, resumed = {"enable_checkpointing": True, "max_epochs": 3}, copy.deepcopy(module)
    trainer(callbacks=[L2SP(0.7, anchor=source[0]), save], **options).fit(module, loader)
    (tmp_path / "source.ckpt").unlink()
    again = trainer(callbacks=L2SP(0.7, anchor=source[0]), max_epochs=3)
    again.fit(resumed, loader, ckpt_path=tmp_path / "saved" / "epoch=0.ckpt", weights_only=True)
    assert_close(parameters(resumed), parameters(module), rtol=0, atol=0)


class Manual(Segments):
    """Two optimizers with learning rates of their own, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch):
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = mse_loss(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss if self.extra is None else loss + self.extra(self))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        first, second = self.net["encoder"], self.net["decoder"]
        return [torch.optim.SGD(first.parameters(), lr=0.1), torch.optim.Adam(second.parameters(), lr=0.02)]


def test_manual_optimization_with_two_optimizers(module, loader, trainer, source):
    path, _ = source
    ours, reference = Manual(), Manual()
    ours.load_state_dict(module.state_dict())
    reference.load_state_dict(module.state_dict())
    anchor = {f"net.{name}": t for name, t in torch.load(path)["state_dict"].items()}
    reference.extra = by_hand(anchor, 0.7)
    trainer().fit(reference, loader)
    trainer(callbacks=L2SP(0.7, parameters="*", anchor=path)).fit(ours, loader)
    assert_close(parameters(ours), parameters(reference), rtol=1e-5, atol=1e-6)


class Skips(Segments):
    def training_step(self, batch):
        return None


@pytest.mark.parametrize("step", ["explicit", "proximal"])
@pytest.mark.filterwarnings("ignore:.*training_step.* returned .None")
def test_a_skipped_step_moves_nothing(module, loader, trainer, source, step):
    skips = Skips()
    skips.load_state_dict(module.state_dict())
    trainer(callbacks=L2SP(0.7, anchor=source[0], step=step)).fit(skips, loader)
    assert_close(parameters(skips), parameters(module), rtol=0, atol=0)


def test_on_an_unmodified_module_of_someone_else(trainer):
    seed_everything(0)
    free, held = BoringModel(), BoringModel()
    held.load_state_dict(free.state_dict())
    start = parameters(free)
    options = {"limit_train_batches": 8, "limit_val_batches": 0}
    trainer(**options).fit(free)
    trainer(**options, callbacks=L2SP(strength=4.0, parameters="layer", anchor="start")).fit(held)
    moved = [sum((parameters(m)[n] - start[n]).square().sum() for n in start) for m in (free, held)]
    assert 0 < moved[1] < 0.5 * moved[0]


def test_two_instances_add_up(module, loader, trainer, source):
    twice = copy.deepcopy(module)
    halves = [L2SP(0.3, anchor=source[0], name="a"), L2SP(0.4, anchor=source[0], name="b")]
    trainer(callbacks=halves).fit(twice, loader)
    trainer(callbacks=L2SP(0.7, anchor=source[0])).fit(module, loader)
    assert_close(parameters(twice), parameters(module), rtol=1e-5, atol=1e-6)


def test_warns_that_weight_decay_pulls_elsewhere(module, loader, trainer):
    module.optimizer = OPTIMIZERS["adamw"]
    with pytest.warns(UserWarning, match=r"weight decay of 0\.1 pulls `net\.encoder.*` to 0.*`weight_decay=0`"):
        trainer(callbacks=L2SP(0.7)).fit(module, loader)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -1.0}, r"`strength` and `decoder_strength` must be 0 or more and finite, got -1\.0"),
        ({"strength": float("nan")}, "got nan"),
        ({"decoder_strength": -0.1}, r"got 8\.0 and -0\.1"),
        ({"strength": {3: 1.0}}, r"from epoch 0 on, got \{3: 1\.0\}: add the key 0"),
        ({"strength": {}}, "add the key 0"),
        ({"step": "implicit"}, "`step` must be 'explicit' or 'proximal', got 'implicit'"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        L2SP(**arguments)


def refuses(trainer, module, loader, error, message, **arguments):
    before = parameters(module)
    with pytest.raises(error, match=message):
        trainer(callbacks=L2SP(**arguments)).fit(module, loader)
    assert_close(parameters(module), before, rtol=0, atol=0)


def test_refuses_what_cannot_be_anchored(module, loader, trainer, source, tmp_path):
    check = partial(refuses, trainer, module, loader)
    check(ValueError, r"no checkpoint at nowhere\.ckpt", anchor="nowhere.ckpt")
    torch.save({"layer1.weight": torch.ones(3)}, tmp_path / "resnet.pth")
    message = r"resnet\.pth' is of another architecture: it lacks 4 of the 4 .* such as `net\.encoder"
    check(ValueError, message, anchor=str(tmp_path / "resnet.pth"))
    weights = torch.load(source[0])["state_dict"]
    weights["encoder.0.weight"] = torch.ones(3, 7)
    torch.save(weights, tmp_path / "resized.pth")
    message = r"resized\.pth' does not fit: `net\.encoder\.0\.weight` has shape \(3, 4\), and its anchor \(3, 7\)"
    check(ValueError, message, anchor=str(tmp_path / "resized.pth"))
    nothing = r"\['encodr'\]` matches no parameter of Segments: name .* such as net\.decoder, net\.encoder"
    check(MisconfigurationException, nothing, parameters=["encoder", "encodr"])
    check(MisconfigurationException, "matches no parameter", parameters=[])
    nothing_left = r"`decoder_strength=0\.1` pulls what `parameters=\['\*'\]` leaves, which is nothing"
    check(MisconfigurationException, nothing_left, parameters="*", decoder_strength=0.1)


def test_names_a_parameter_that_was_resized_or_is_gone(module, loader, trainer):
    callback = L2SP(0.7, anchor="last_fit")
    trainer(callbacks=callback).fit(module, loader)
    resized, gone = copy.deepcopy(module), copy.deepcopy(module)
    resized.net["encoder"].unused = nn.Parameter(torch.ones(5))
    with pytest.raises(ValueError, match=r"`net\.encoder\.unused` has shape \(5,\), and its anchor \(2,\)"):
        trainer(callbacks=callback).fit(resized, loader)
    del gone.net["encoder"].unused
    with pytest.raises(ValueError, match=r"`net\.encoder\.unused` has an anchor and is no longer"):
        trainer(callbacks=callback).fit(gone, loader)


def test_refuses_scaled_gradients_of_a_fused_optimizer(module, loader, trainer):
    module.optimizer = partial(torch.optim.Adam, lr=0.01, fused=True)
    with pytest.raises(MisconfigurationException, match=r"fused optimizer .* Set `step='proximal'`, `fused=False`"):
        trainer(callbacks=L2SP(0.7), **PRECISIONS["fp16"]()).fit(module, loader)


class FindsItsRate(torch.optim.SGD):
    """An optimizer without a learning rate, as Adafactor of transformers."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.param_groups[0]["lr"] = None

    def step(self, closure=None):
        closure()


def test_a_proximal_step_needs_a_learning_rate(loader, trainer):
    trainer(callbacks=L2SP(0.1)).fit(Segments(FindsItsRate), loader)
    with pytest.raises(MisconfigurationException, match=r"FindsItsRate has none for `net.encoder"):
        trainer(callbacks=L2SP(0.1, step="proximal")).fit(Segments(FindsItsRate), loader)


def test_refuses_processes_that_forget(module, loader, trainer):
    with pytest.raises(MisconfigurationException, match=r"`L2SP` keeps state.*Use .*`strategy='ddp'`"):
        L2SP(anchor="last_fit").setup(trainer(strategy="ddp_spawn", devices=2), module, "fit")
    L2SP(anchor="start").setup(trainer(strategy="ddp_spawn", devices=2), module, "fit")  # whose anchor is of one fit


@pytest.mark.parametrize("closure", [False, True])
def test_optimizers_that_step_past_lightning_pull_too_or_say_that_they_cannot(module, loader, trainer, closure):
    def step(one, raw, close):
        def training_step(batch):
            optimizer = one.optimizers(use_pl_optimizer=not raw)
            optimizer.zero_grad()
            one.manual_backward(type(one).training_step(one, batch))
            optimizer.step(lambda: None) if close else optimizer.step()

        one.automatic_optimization, one.training_step = False, training_step

    seen = copy.deepcopy(module)
    step(seen, raw=False, close=False)
    step(module, raw=True, close=closure)
    trainer(callbacks=L2SP(0.7)).fit(seen, loader)
    if closure:
        with pytest.raises(MisconfigurationException, match=r"use_pl_optimizer=False.*Use `self.optimizers\(\)`"):
            trainer(callbacks=L2SP(0.7)).fit(module, loader)
    else:
        fitting = trainer(callbacks=L2SP(0.7))
        fitting.fit(module, loader)
        assert_close(parameters(module), parameters(seen), rtol=0, atol=0)
        assert "train/l2sp" in fitting.callback_metrics
        assert not any(optimizer._optimizer_step_pre_hooks for optimizer in fitting.optimizers)


def test_logs_one_distance_unless_asked_for_layers(module, loader, trainer):
    fitting = trainer(callbacks=L2SP(0.7))
    fitting.fit(module, loader)
    assert {key for key in fitting.callback_metrics if "l2sp" in key} == {"train/l2sp", "train/l2sp_distance"}


def test_the_anchor_of_the_start_is_no_memory_of_a_fit_that_is_over(module, loader, trainer, tmp_path):
    """It doubled finished checkpoints; one that is written in a fit has it, to go on from."""
    callback, saving = L2SP(2.0), ModelCheckpoint(tmp_path / "kept", save_last=True)
    trainer(callbacks=[callback, saving], enable_checkpointing=True).fit(module, loader)
    assert callback.state_dict() == {}
    within = torch.load(tmp_path / "kept/last.ckpt", weights_only=True)["callbacks"][callback.state_key]
    assert set(within["anchor"]) == {n for n, _ in module.named_parameters() if "encoder" in n}
